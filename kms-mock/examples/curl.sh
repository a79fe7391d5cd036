#!/bin/sh
# Calls the KMS with nothing but curl and openssl, once with each signature. Needs `kms-mock serve --data ./kms` running:
#     curl.sh [ENDPOINT] [CREDENTIALS]
# openssl takes the secret key as an argument, where other users of the machine can see it: good enough for a mock.
set -eu
endpoint=${1:-http://127.0.0.1:7380} credentials=${2:-./kms/credentials.toml}
ak=$(sed -n 's/^access_key = "\(.*\)"/\1/p' "$credentials")
sk=$(sed -n 's/^secret_key = "\(.*\)"/\1/p' "$credentials")

# The text of a field of an answer.
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }

# Profile N: native PATH BODY VALUES, the values of the body in the order of their names with accessKey first of all, one a line.
# accessKey comes before every name of the requests here.
native() {
    date=$(TZ=UTC-8 LC_ALL=C date '+%a, %d %b %Y %H:%M:%S CST') # Beijing time
    md5=$(printf '%s\n%s' "$ak" "$3" | openssl dgst -md5 -binary | openssl base64 -A)
    hmac=$(printf '%s\n%s\n%s' "$md5" "$date" "$1" | openssl dgst -sha256 -hmac "$sk" -binary | openssl base64 -A)
    curl -sS "$endpoint$1" -H 'Content-Type: application/json' \
        -H "accessKey: $ak" -H "requestDate: $date" -H "hmac: $hmac" -d "$2"
}

# HMAC-SHA256 of standard input under a key in hexadecimal, in hexadecimal.
hmac_hex() { openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -r | cut -d' ' -f1; }

# Profile E: eop PATH BODY, the whole body is signed.
eop() {
    id=$(openssl rand -hex 16) date=$(TZ=UTC-8 date '+%Y%m%dT%H%M%SZ') # Beijing time, whatever the Z says
    ktime=$(printf %s "$date" | openssl dgst -sha256 -hmac "$sk" -r | cut -d' ' -f1)
    kak=$(printf %s "$ak" | hmac_hex "$ktime")
    kdate=$(printf %s "${date%%T*}" | hmac_hex "$kak")
    hash=$(printf %s "$2" | openssl dgst -sha256 -r | cut -d' ' -f1)
    # Headers, an empty line, the query (none here), the hash of the body
    text=$(printf 'ctyun-eop-request-id:%s\neop-date:%s\n\n\n%s' "$id" "$date" "$hash")
    signature=$(printf %s "$text" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$kdate" -binary | openssl base64 -A)
    curl -sS "$endpoint$1" -H 'Content-Type: application/json' -H "ctyun-eop-request-id: $id" -H "eop-date: $date" \
        -H "Eop-Authorization: $ak Headers=ctyun-eop-request-id;eop-date Signature=$signature" -d "$2"
}

body='{"enableAutomaticRotation":false,"keySpec":"AES_256","keyUsage":"ENCRYPT/DECRYPT","protectionLevel":"SOFTWARE"}'
key=$(native /cmkManage/createKey "$body" "$(printf '%s\n' false AES_256 ENCRYPT/DECRYPT SOFTWARE)" | field cmkUuid)
echo "key: $key"

answer=$(native /keyCompute/generateDataKey "{\"cmkUuid\":\"$key\"}" "$key")
blob=$(printf %s "$answer" | field ciphertextBlob)
echo "wrapped data key: $blob"

opened=$(eop /keyCompute/decrypt "{\"ciphertextBlob\":\"$blob\"}" | field plaintext)
[ "$opened" = "$(printf %s "$answer" | field plaintext)" ] && echo "decrypt gives the data key back"

error=$(eop /keyCompute/decrypt '{"ciphertextBlob":"MDA2NA=="}' | field errorCode)
echo "error: $error"
