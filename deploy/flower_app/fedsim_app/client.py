"""The ClientApp: fedsim's client."""

from fedsim.deployment import make_client_app

app = make_client_app()
