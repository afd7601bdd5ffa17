"""Personal data in free text: found by rules, replaced by tags, keyed tags or surrogates."""
