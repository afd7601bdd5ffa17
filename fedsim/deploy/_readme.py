"""What stands beside the keys: a page for whoever gets a folder."""

__all__ = ["NODE_README", "OPERATOR_README", "SERVER_README"]

SERVER_README = """\
# The server of a federation

    fedsim deploy server FOLDER      # in the foreground; Ctrl-C stops it

It listens where server.toml says, with TLS, and lets in the nodes whose public keys are in logins/.
Nodes and operators connect to that one port. There is no login for operators: whoever reaches the
port can submit, and a node runs only what is signed by a key in its own approvers.toml. Keep the
port inside a private network or behind a proxy.

- server.key, server.crt   TLS. Secret: server.key.
- storage.key              seals checkpoints where an experiment says storage.encrypt. Secret.
- ca.crt, identities.json  whom clients of secure sums are checked against. Public.
- runs/                    run records, checkpoints, ledger, reports. Copy them for safety.
- state.db                 Flower's own: registered nodes, runs. With it a restart knows its nodes.

No secret of a node or of the authority is here.
"""

NODE_README = """\
# {name}, a node of a federation

    fedsim node check FOLDER EXPERIMENT    # would it be allowed, and why not
    fedsim deploy node FOLDER              # in the foreground; Ctrl-C stops it

It connects to the server that node.toml names and opens no port to other machines. It answers
experiments that a key in approvers.toml has signed and that policy.toml allows; anything else is
refused and noted in audit.jsonl.

Before it starts: say in node.toml where the data are, and in policy.toml what may be done with
them.

- supernode.key   proves to the server which node this is. Secret.
- identity.key    signs secure sums. Secret: it never leaves this machine.
- ca.crt          the authority: whose server, and whose list of identities, are believed.
- identities.json everybody's public keys, signed by the authority.
- ledger/, pins/  what has been spent and released. Never delete them.
- memory/         what the client remembers between rounds of a run.
"""

OPERATOR_README = """\
# Submitting experiments to a federation

    fedsim deploy submit EXPERIMENT --to FOLDER
    fedsim deploy status|logs|stop --to FOLDER

- approval.key   signs experiments; nodes run what it signed. Secret.
- keys/          the authority that certified server and nodes (keys/ca/ca.key). Secret: keep it off
                 the network where you can; it is needed to add, renew or revoke (fedsim keys).
- ca.crt         by which the server is known.
- submitted/     what was signed and sent, by run: what `--resume` sends again.
"""
