"""What a run of schemathesis against the mock needs: signatures, and values that lead past the first checks.

The environment gives KMS_ENDPOINT, KMS_ACCESS_KEY and KMS_SECRET_KEY; examples/ is in the path of Python's modules.
"""
import base64
import os
import pathlib
import subprocess
import tempfile
import zlib

import schemathesis
from client import Kms, KmsError, eop
from requests.auth import AuthBase

KMS = Kms(os.environ["KMS_ENDPOINT"], os.environ["KMS_ACCESS_KEY"], os.environ["KMS_SECRET_KEY"], eop)


class Signed(AuthBase):
    def __call__(self, request):
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        request.headers.update(eop(KMS, None, None, body))
        return request


schemathesis.auth.set_from_requests(Signed())


def self_signed():
    """The ids of a certificate with its key, and of one for a USB key; both are the same one of OpenSSL's."""
    with tempfile.TemporaryDirectory() as directory:
        for command in (
            "genpkey -quiet -algorithm SM2 -out key",
            "req -x509 -key key -subj /CN=own -days 30 -sm3 -sigopt distid:1234567812345678 -out pem",
            "pkcs12 -export -inkey key -in pem -passout pass:x -out p12",
        ):
            subprocess.run(["openssl", *command.split()], cwd=directory, check=True)
        file, pem = (pathlib.Path(directory, name).read_bytes() for name in ("p12", "pem"))
    blob = dict(pkcs12Blob=base64.b64encode(file).decode(), passphrase="x")
    made = KMS.call("/manageCertificate/importCertificate", exportablePrivateKey=1, **blob)
    stick = KMS.call("/manageCertificate/importCertificateForUK", algorithm="SM2", ukName="x", cert=pem.decode())
    return made["certificateId"], stick["ukId"]


def pools():
    """Values under which the mock knows something, by the name of the field."""
    created = dict(keyUsage="ENCRYPT/DECRYPT", protectionLevel="HSM")
    aes = KMS.call("/cmkManage/createKey", keySpec="AES_256", enableAutomaticRotation=False, **created)["cmkUuid"]
    sm2 = KMS.call("/cmkManage/createKey", keySpec="Ctyun_SM2", **created)["cmkUuid"]
    sign = {**created, "keyUsage": "SIGN/VERIFY"}
    signer = KMS.call("/cmkManage/createKey", keySpec="Ctyun_SM2", **sign)["cmkUuid"]
    waits = KMS.call("/cmkManage/createKey", keySpec="AES_256", origin="EXTERNAL", **created)["cmkUuid"]
    KMS.call("/aliasManage/createAlias", aliasName="alias/aes", cmkUuid=aes)
    versions = [KMS.call("/keyVersion/listKeyVersions", cmkUuid=key)["keyVersions"][0] for key in (aes, sm2, signer)]
    keys = [aes, sm2, signer, waits, "alias/aes", "alias/ecs", "alias/none"]
    text = base64.b64encode(b"text").decode()
    public = KMS.call("/keyCompute/getPublicKey", cmkUuid=sm2, keyVersionId=versions[1]["keyVersionId"])
    pem = public["publicKeyPem"]
    vpc = KMS.call("/accessPoint/listVpcs")["vpcs"][0]["vpcId"]
    subnet = KMS.call("/accessPoint/listSubnets", vpcId=vpc)["subnets"][0]["subnetId"]
    point = KMS.call("/accessPoint/createAccessPoint", name="point", vpcId=vpc, subnetId=subnet)["accessPointId"]
    access_key = KMS.call("/accessPoint/createAccessKey", accessPointId=point)["accessKey"]
    tag = KMS.call("/tagManage/createTag", tagKey="team", tagValue="tests")["tagId"]
    with_versions = [f"{key} {version['keyVersionId']}" for key, version in zip((aes, sm2, signer), versions)]
    request = dict(keySpec="SM2", subject="CN=x", subjectAlternativeNames=[], protectionLevel="0")
    made = KMS.call("/manageCertificate/createCertificate", exportablePrivateKey=1, **request)
    certificate, ukey = self_signed()
    return {
        "cmkUuid keyVersionId": with_versions,
        "sourceCmkUuid sourceKeyVersionId": with_versions,
        "cmkUuid": keys,
        "destinationCmkUuid": keys,
        "sourceCmkUuid": keys,
        "resourceId": keys,
        "keyVersionId": [version["keyVersionId"] for version in versions],
        "sourceKeyVersionId": [version["keyVersionId"] for version in versions],
        "pendingWindowInDays": [7, 30],
        "length": [1, 1024],
        "rotationInterval": ["7", "730"],
        "plaintext": [text],
        "message": [text],
        "digest": [base64.b64encode(bytes(32)).decode()],
        "ciphertextBlob": [KMS.call("/keyCompute/encrypt", cmkUuid=aes, plaintext=text)["ciphertextBlob"]],
        "algorithm": ["AES", "SM4", "RSA", "SM2DSA", "SM2PKE", "RSA_PSS_SHA_256", "RSAES_OAEP_SHA_256", "SM2"],
        "sourceEncryptionAlgorithm": ["SM2PKE", "RSAES_OAEP_SHA_1"],
        "wrappingAlgorithm": ["SM2PKE", "RSAES_OAEP_SHA_256"],
        "wrappingKeySpec": ["EC_SM2", "RSA_2048"],
        "publicKeyBlob": ["".join(line for line in pem.splitlines() if not line.startswith("-"))],
        "keySpec": ["AES_256", "Ctyun_SM4", "Ctyun_SM2", "SM2"],
        "keyUsage": ["ENCRYPT/DECRYPT", "SIGN/VERIFY"],
        "protectionLevel": ["HSM", "SOFTWARE", "0", "1"],
        "origin": ["CTYUN_KMS", "EXTERNAL"],
        "aliasName": ["alias/aes", "alias/new", "alias/ecs"],
        "accessPointId": [point],
        "vpcId": [vpc],
        "subnetId": [subnet],
        "resourceType": ["CMK", "CERTIFICATE"],
        "accessKey": [access_key],
        "apis": [[{"apiName": "encrypt", "allowed": True}]],
        "resources": [[{"resourceType": "CMK", "resourceId": aes, "allowed": True}]],
        "endpoints": [[{"endpointId": "all", "cidr": "0.0.0.0/0"}]],
        "tagId": [tag],
        "tagIds": [[tag]],
        "certificateId": [made["certificateId"], certificate],
        "ukId": [ukey],
        "exportFormat": ["PEM", "PKCS12"],
        "exportablePrivateKey": [0, 1, True],
        "messageType": ["RAW", "DIGEST"],
        "status": ["ACTIVE", "INACTIVE", "REVOKED"],
        "subject": ["C=CN,O=Tests,CN=schemathesis"],
    }


POOLS = pools()


def spoiled_key():
    fields = dict(keyUsage="ENCRYPT/DECRYPT", protectionLevel="HSM", enableAutomaticRotation=False)
    return KMS.call("/cmkManage/createKey", keySpec="AES_256", **fields)["cmkUuid"]


def spoiled_point():
    fields = dict(name="spoiled", vpcId=POOLS["vpcId"][0], subnetId=POOLS["subnetId"][0])
    return KMS.call("/accessPoint/createAccessPoint", **fields)["accessPointId"]


def spoiled_tag():
    return KMS.call("/tagManage/createTag", tagKey="spoiled", tagValue=os.urandom(8).hex())["tagId"]


# Calls after which a thing is of no use to the others: they get one of their own. schemathesis finds ids in answers, too.
SPOILED = {
    "/cmkManage/disableKey": ("cmkUuid", [spoiled_key() for _ in range(3)]),
    "/cmkManage/scheduleKeyDeletion": ("cmkUuid", [spoiled_key() for _ in range(3)]),
    "/cmkManage/enableDeletionProtection": ("cmkUuid", [spoiled_key() for _ in range(3)]),
    "/accessPoint/deleteAccessPoint": ("accessPointId", [spoiled_point() for _ in range(3)]),
    "/accessPoint/deleteAccessKey": ("accessPointId", [spoiled_point()]),
    "/accessPoint/disableAccessKey": ("accessPointId", [spoiled_point()]),
    "/manageCertificate/deleteCertificate": ("certificateId", [self_signed()[0] for _ in range(2)]),
    "/manageCertificate/updateCertificateStatus": ("certificateId", [self_signed()[0]]),
    "/manageCertificate/deleteCertificateForUK": ("ukId", [self_signed()[1] for _ in range(2)]),
    "/manageCertificate/updateCertificateStatusForUK": ("ukId", [self_signed()[1]]),
    "/tagManage/deleteTag": ("tagId", [spoiled_tag() for _ in range(3)]),
}


@schemathesis.hook
def map_body(context, body):
    """Most values give way to one that leads somewhere; which one depends on the body alone, so that runs repeat."""
    if not isinstance(body, dict):
        return body
    body = dict(body)
    for names, pool in reversed(POOLS.items()):
        fields = names.split()
        draw = zlib.crc32(repr([body.get(field) for field in fields]).encode())
        if all(field in body for field in fields) and draw % 4:
            chosen = pool[draw // 4 % len(pool)]
            body.update(zip(fields, chosen.split() if len(fields) > 1 else [chosen]))
    field, pool = SPOILED.get(context.operation.path, (None, None))
    if isinstance(body.get(field), str):
        body[field] = pool[zlib.crc32(body[field].encode()) % len(pool)]
    return body
