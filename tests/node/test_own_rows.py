"""Nodes with files of their own come to the model of a simulation on the pooled table."""


def models(records):
    return [record.model_sha256 for record in records]


def test_own_files_give_the_model_of_the_pooled_table(hospitals):
    config = hospitals.config()
    found = hospitals.run(config)
    assert [record.lost for record in found] == [0, 0]
    assert models(found) == models(hospitals.simulated(config))
