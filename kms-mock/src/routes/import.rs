//! Routes of the import of key material.

use super::Shape::Text;
use super::{Route, output};
use crate::api::import as api;
use crate::error::*;
use crate::fields::{Kind, optional, required};

pub const ROUTES: &[Route] = &[
    Route {
        api: "getParametersForImport",
        path: "/importKey/getParametersForImport",
        title: "获取导入主密钥材料参数",
        request: &[
            required("cmkUuid", Kind::Text),
            required("wrappingAlgorithm", Kind::Text),
            required("wrappingKeySpec", Kind::Text),
        ],
        response: &[
            output("cmkUuid", Text),
            output("publicKey", Text),
            output("importToken", Text),
            output("tokenExpireTime", Text),
        ],
        codes: &[
            KMS_0102, KMS_0120, KMS_0121, KMS_0203, KMS_0210, KMS_0225, KMS_0236, KMS_0237, KMS_0240, KMS_0301,
            KMS_0511,
        ],
        run: api::get_parameters_for_import,
    },
    Route {
        api: "importKeyMaterial",
        path: "/importKey/importKeyMaterial",
        title: "导入主密钥材料",
        request: &[
            required("cmkUuid", Kind::Text),
            required("importToken", Kind::Text),
            required("encryptedKeyMaterial", Kind::Text),
            optional("keyMaterialExpireUnix", Kind::Any),
        ],
        response: &[],
        codes: &[
            KMS_0102, KMS_0123, KMS_0124, KMS_0203, KMS_0210, KMS_0225, KMS_0235, KMS_0239, KMS_0240, KMS_0241,
            KMS_0245, KMS_0248, KMS_0301, KMS_0503,
        ],
        run: api::import_key_material,
    },
    Route {
        api: "deleteKeyMaterial",
        path: "/importKey/deleteKeyMaterial",
        title: "删除主密钥材料",
        request: &[required("cmkUuid", Kind::Text)],
        response: &[],
        codes: &[KMS_0102, KMS_0203, KMS_0210, KMS_0240, KMS_0301, KMS_0509],
        run: api::delete_key_material,
    },
];
