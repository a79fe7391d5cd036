#!/usr/bin/env python3
"""Calls the KMS with both signatures; Python's standard library is all it needs.

    client.py [ENDPOINT] [CREDENTIALS]        with `kms-mock serve --data ./kms` running
"""
import base64
import hashlib
import hmac
import json
import re
import sys
import urllib.error
import urllib.request
import uuid
from datetime import datetime, timedelta, timezone

BEIJING = timezone(timedelta(hours=8))


class KmsError(Exception):
    """The service said no: HTTP status, code and message."""


class Kms:
    def __init__(self, endpoint, access_key, secret_key, sign):
        self.endpoint, self.access_key, self.secret_key = endpoint, access_key, secret_key
        self.sign = sign

    def call(self, path, **fields):
        body = json.dumps(fields).encode()
        headers = {"Content-Type": "application/json", **self.sign(self, path, fields, body)}
        try:
            request = urllib.request.Request(self.endpoint + path, body, headers, method="POST")
            with urllib.request.urlopen(request, timeout=10) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        # An error may come with HTTP status 200: the body decides.
        if answer["code"] != 200:
            raise KmsError(answer["code"], answer["errorCode"], answer["message"])
        return answer.get("data", answer.get("result"))


def native(kms, path, fields, _body):
    """Profile N: the values of all fields and of accessKey, in the order of their names; lists and objects as compact JSON."""
    def text(value):
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))

    values = {name: text(value) for name, value in fields.items()}
    values["accessKey"] = kms.access_key
    content = "\n".join(value for _, value in sorted(values.items()))
    md5 = base64.b64encode(hashlib.md5(content.encode()).digest()).decode()
    # In Beijing time. Names of days and months are English whatever the locale.
    now = datetime.now(BEIJING)
    day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][now.weekday()]
    month = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()[now.month - 1]
    date = f"{day}, {now:%d} {month} {now:%Y %H:%M:%S} CST"
    signature = mac(kms.secret_key.encode(), f"{md5}\n{date}\n{path}")
    return {"accessKey": kms.access_key, "requestDate": date, "hmac": base64.b64encode(signature).decode()}


def eop(kms, _path, _fields, body):
    """Profile E: the whole body; the key of the signature is derived step by step."""
    request_id, date = str(uuid.uuid4()), f"{datetime.now(BEIJING):%Y%m%dT%H%M%SZ}"
    # Two headers, an empty line, the query (none here), the hash of the body
    text = f"ctyun-eop-request-id:{request_id}\neop-date:{date}\n\n\n{hashlib.sha256(body).hexdigest()}"
    key = mac(mac(mac(kms.secret_key.encode(), date), kms.access_key), date[:8])
    signature = base64.b64encode(mac(key, text)).decode()
    authorization = f"{kms.access_key} Headers=ctyun-eop-request-id;eop-date Signature={signature}"
    return {"ctyun-eop-request-id": request_id, "eop-date": date, "Eop-Authorization": authorization}


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def main(endpoint="http://127.0.0.1:7380", credentials="./kms/credentials.toml"):
    with open(credentials, encoding="utf-8") as file:
        keys = dict(re.findall(r'^(\w+) = "(.*)"$', file.read(), re.MULTILINE))
    for sign in (native, eop):
        kms = Kms(endpoint, keys["access_key"], keys["secret_key"], sign)
        key = kms.call(
            "/cmkManage/createKey",
            keySpec="AES_256", keyUsage="ENCRYPT/DECRYPT", protectionLevel="SOFTWARE", enableAutomaticRotation=False,
            tags=[{"tagKey": "from", "tagValue": "client.py"}],
        )
        print(f"{sign.__name__}: key {key['cmkUuid']}")
        data_key = kms.call("/keyCompute/generateDataKey", cmkUuid=key["cmkUuid"])
        opened = kms.call("/keyCompute/decrypt", ciphertextBlob=data_key["ciphertextBlob"])
        assert opened["plaintext"] == data_key["plaintext"]
        print(f"{sign.__name__}: decrypt gives the data key back")
        try:
            kms.call("/keyCompute/generateDataKey", cmkUuid=str(uuid.uuid4()))
        except KmsError as error:
            print(f"{sign.__name__}: error {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
