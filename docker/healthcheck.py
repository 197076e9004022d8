"""Asks the balancer in this container whether it is alive.

Without our own modules: reading all settings every few seconds would be most of what it does.
"""

import http.client
import os
import ssl

port = int(os.environ.get("BALANCER_PORT", "18000"))
ours = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
if os.environ.get("BALANCER_TLS_CERT"):
    # It is we who are asked, by an address that is in no certificate.
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    ours = http.client.HTTPSConnection("127.0.0.1", port, timeout=3, context=unchecked)
ours.request("GET", "/llmhealth")
raise SystemExit(ours.getresponse().status != 200)
