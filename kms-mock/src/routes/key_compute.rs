//! Routes of the cryptographic operations.

use super::Shape::{Flag, Text};
use super::{Output, Route, output};
use crate::api::{asymmetric, data_key, key_compute};
use crate::error::*;
use crate::fields::{Field, Kind, optional, required};

const SEALED: &[Output] = &[output("ciphertextBlob", Text), output("cmkUuid", Text), output("keyVersionId", Text)];
const OPENED: &[Output] = &[output("plaintext", Text), output("cmkUuid", Text), output("keyVersionId", Text)];
const DATA_KEY: &[Output] =
    &[output("plaintext", Text), output("ciphertextBlob", Text), output("cmkUuid", Text), output("keyVersionId", Text)];
const EXPORTED: &[Output] = &[output("exportedDataKey", Text), output("cmkUuid", Text), output("keyVersionId", Text)];

const NEW_DATA_KEY: &[Field] =
    &[required("cmkUuid", Kind::Text), optional("keySpec", Kind::Text), optional("numberOfBytes", Kind::Number)];

/// Codes of generateDataKey and its siblings.
const DATA_KEY_CODES: &[Code] = &[
    KMS_0102, KMS_0203, KMS_0205, KMS_0206, KMS_0220, KMS_0221, KMS_0223, KMS_0240, KMS_0241, KMS_0250, KMS_0301,
    KMS_0303,
];

pub const ROUTES: &[Route] = &[
    Route {
        api: "encrypt",
        path: "/keyCompute/encrypt",
        title: "在线加密",
        request: &[required("cmkUuid", Kind::Text), required("plaintext", Kind::Text)],
        response: SEALED,
        codes: &[
            KMS_0102, KMS_0107, KMS_0203, KMS_0205, KMS_0206, KMS_0213, KMS_0240, KMS_0249, KMS_0252, KMS_0301,
            KMS_0303,
        ],
        run: key_compute::encrypt,
    },
    Route {
        api: "generateDataKey",
        path: "/keyCompute/generateDataKey",
        title: "产生数据密钥(信封加密)",
        request: NEW_DATA_KEY,
        response: DATA_KEY,
        codes: DATA_KEY_CODES,
        run: data_key::generate_data_key,
    },
    Route {
        // The path that a client's comment gives as an example.
        api: "generateDataKey",
        path: "/create/datakey",
        title: "产生数据密钥(信封加密)",
        request: NEW_DATA_KEY,
        response: DATA_KEY,
        codes: DATA_KEY_CODES,
        run: data_key::generate_data_key,
    },
    Route {
        api: "generateDataKeyWithoutPlaintext",
        path: "/keyCompute/generateDataKeyWithoutPlaintext",
        title: "产生无明文返回值的数据密钥(信封加密)",
        request: NEW_DATA_KEY,
        response: SEALED,
        codes: DATA_KEY_CODES,
        run: data_key::generate_data_key_without_plaintext,
    },
    Route {
        api: "exportDataKey",
        path: "/keyCompute/exportDataKey",
        title: "导出数据密钥",
        request: &[
            required("ciphertextBlob", Kind::Text),
            required("publicKeyBlob", Kind::Text),
            required("wrappingKeySpec", Kind::Text),
            required("wrappingAlgorithm", Kind::Text),
        ],
        response: EXPORTED,
        codes: &[
            KMS_0108, KMS_0121, KMS_0131, KMS_0134, KMS_0203, KMS_0206, KMS_0215, KMS_0236, KMS_0237, KMS_0247,
            KMS_0249, KMS_0301,
        ],
        run: data_key::export_data_key,
    },
    Route {
        api: "generateAndExportDataKey",
        path: "/keyCompute/generateAndExportDataKey",
        title: "产生并导出数据密钥",
        request: &[
            required("cmkUuid", Kind::Text),
            optional("keySpec", Kind::Text),
            optional("numberOfBytes", Kind::Number),
            required("publicKeyBlob", Kind::Text),
            required("wrappingKeySpec", Kind::Text),
            required("wrappingAlgorithm", Kind::Text),
        ],
        response: &[
            output("ciphertextBlob", Text),
            output("exportedDataKey", Text),
            output("cmkUuid", Text),
            output("keyVersionId", Text),
        ],
        codes: &[
            KMS_0102, KMS_0121, KMS_0131, KMS_0134, KMS_0203, KMS_0205, KMS_0206, KMS_0215, KMS_0220, KMS_0221,
            KMS_0223, KMS_0236, KMS_0237, KMS_0240, KMS_0241, KMS_0249, KMS_0250, KMS_0301, KMS_0303,
        ],
        run: data_key::generate_and_export_data_key,
    },
    Route {
        api: "decrypt",
        path: "/keyCompute/decrypt",
        title: "对称密钥解密",
        request: &[required("ciphertextBlob", Kind::Text)],
        response: OPENED,
        codes: &[KMS_0108, KMS_0203, KMS_0205, KMS_0206, KMS_0213, KMS_0219, KMS_0239, KMS_0301],
        run: key_compute::decrypt,
    },
    Route {
        api: "reEncrypt",
        path: "/keyCompute/reEncrypt",
        title: "转加密",
        request: &[
            required("ciphertextBlob", Kind::Text),
            required("destinationCmkUuid", Kind::Text),
            optional("sourceCmkUuid", Kind::Text),
            optional("sourceKeyVersionId", Kind::Text),
            optional("sourceEncryptionAlgorithm", Kind::Text),
        ],
        response: SEALED,
        codes: &[
            KMS_0108, KMS_0109, KMS_0110, KMS_0111, KMS_0112, KMS_0114, KMS_0203, KMS_0205, KMS_0206, KMS_0212,
            KMS_0213, KMS_0219, KMS_0239, KMS_0244, KMS_0246, KMS_0249, KMS_0301, KMS_0305, KMS_0307, KMS_0308,
        ],
        run: key_compute::re_encrypt,
    },
    Route {
        api: "asymmetricSign",
        path: "/keyCompute/asymmetricSign",
        title: "产生数字签名",
        request: &[
            required("cmkUuid", Kind::Text),
            required("keyVersionId", Kind::Text),
            required("algorithm", Kind::Text),
            required("digest", Kind::Text),
        ],
        response: &[output("value", Text), output("cmkUuid", Text), output("keyVersionId", Text)],
        codes: &[
            KMS_0102, KMS_0104, KMS_0105, KMS_0106, KMS_0203, KMS_0204, KMS_0206, KMS_0212, KMS_0215, KMS_0232,
            KMS_0240, KMS_0301, KMS_0304,
        ],
        run: asymmetric::asymmetric_sign,
    },
    Route {
        api: "asymmetricVerify",
        path: "/keyCompute/asymmetricVerify",
        title: "验证数字签名",
        request: &[
            required("cmkUuid", Kind::Text),
            required("keyVersionId", Kind::Text),
            required("algorithm", Kind::Text),
            required("digest", Kind::Text),
            required("value", Kind::Text),
        ],
        response: &[output("value", Flag), output("cmkUuid", Text), output("keyVersionId", Text)],
        codes: &[
            KMS_0102, KMS_0104, KMS_0105, KMS_0106, KMS_0125, KMS_0203, KMS_0204, KMS_0206, KMS_0212, KMS_0215,
            KMS_0232, KMS_0240, KMS_0301, KMS_0304,
        ],
        run: asymmetric::asymmetric_verify,
    },
    Route {
        api: "asymmetricEncrypt",
        path: "/keyCompute/asymmetricEncrypt",
        title: "非对称密钥加密",
        request: &[
            required("cmkUuid", Kind::Text),
            required("keyVersionId", Kind::Text),
            required("algorithm", Kind::Text),
            required("plaintext", Kind::Text),
        ],
        response: SEALED,
        codes: &[
            KMS_0102, KMS_0105, KMS_0107, KMS_0114, KMS_0203, KMS_0205, KMS_0206, KMS_0212, KMS_0214, KMS_0215,
            KMS_0240, KMS_0249, KMS_0251, KMS_0252, KMS_0301, KMS_0304,
        ],
        run: asymmetric::asymmetric_encrypt,
    },
    Route {
        api: "asymmetricDecrypt",
        path: "/keyCompute/asymmetricDecrypt",
        title: "非对称密钥解密",
        request: &[
            required("cmkUuid", Kind::Text),
            required("keyVersionId", Kind::Text),
            required("algorithm", Kind::Text),
            required("ciphertextBlob", Kind::Text),
        ],
        response: OPENED,
        codes: &[
            KMS_0102, KMS_0105, KMS_0108, KMS_0114, KMS_0203, KMS_0205, KMS_0206, KMS_0212, KMS_0214, KMS_0215,
            KMS_0219, KMS_0239, KMS_0240, KMS_0251, KMS_0301, KMS_0304,
        ],
        run: asymmetric::asymmetric_decrypt,
    },
    Route {
        api: "getPublicKey",
        path: "/keyCompute/getPublicKey",
        title: "获取非对称密钥公钥",
        request: &[required("cmkUuid", Kind::Text), required("keyVersionId", Kind::Text)],
        response: &[
            output("publicKey", Text),
            output("publicKeyPem", Text),
            output("cmkUuid", Text),
            output("keyVersionId", Text),
        ],
        codes: &[KMS_0102, KMS_0105, KMS_0203, KMS_0214, KMS_0240, KMS_0301, KMS_0304],
        run: asymmetric::get_public_key,
    },
    Route {
        api: "hmacSM3",
        path: "/get/hmaccompute",
        title: "计算hmacSM3",
        request: &[required("cmkUuid", Kind::Text), required("input", Kind::Text)],
        response: &[output("hmacoutput", Text)],
        codes: &[KMS_0102, KMS_0107, KMS_0213, KMS_0240, KMS_0249, KMS_0301, KMS_0306],
        run: key_compute::hmac_sm3,
    },
];
