"""The ServerApp: fedsim's rounds."""

from fedsim.deployment import make_server_app

app = make_server_app()
