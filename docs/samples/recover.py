# Usage: NEW_PASSWORD=… python3 recover.py http://localhost:9000 ada@example.com
import json
import os
import sys
import urllib.error
import urllib.request


def call(base, name, **fields):
    request = urllib.request.Request(
        f"{base}/api/v1/user/{name}",
        data=json.dumps(fields).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refusal:
        sys.exit(json.load(refusal)["message"])


base, email = sys.argv[1], sys.argv[2]
password = os.environ["NEW_PASSWORD"]

asked = call(base, "forgot-password", email=email)
print(f"Type the code from the mail marked {asked['reference']}:", flush=True)
code = sys.stdin.readline().strip()

# Keep the grant: it is what ties the next call to this one.
confirmed = call(base, "confirm-otp-reset", resetToken=code, proof="grant")
done = call(base, "password-reset", email=confirmed["email"], password=password, resetGrant=confirmed["resetGrant"])
print(done["message"])
