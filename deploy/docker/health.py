"""Exit 0 if the server or node in this container answers on `FEDSIM_HEALTH_URL`, else 1.

Only the loopback interface is asked, so nobody can answer in its place and the certificate, which
names the federation's address rather than 127.0.0.1, is not checked.
"""

import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main() -> int:
    """Ask once and say what was wrong."""
    url = os.environ.get("FEDSIM_HEALTH_URL", "https://127.0.0.1:8000/health")
    if urllib.parse.urlsplit(url).hostname not in LOOPBACK:
        sys.stderr.write(f"FEDSIM_HEALTH_URL is {url}: not on this machine\n")
        return 1
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=4):
            return 0
    except (OSError, urllib.error.HTTPError) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
