"""The ServerApp: fedsim's rounds."""

from fedsim.deploy.server_app import make_server_app

app = make_server_app()
