//! Routes of key versions.

use super::Shape::{Flag, Number, Object, Objects, Text};
use super::{Output, Route, output};
use crate::api::key_version as api;
use crate::error::*;
use crate::fields::{Kind, optional, required};

const VERSION: &[Output] =
    &[output("keyVersionId", Text), output("cmkUuid", Text), output("creationDate", Text), output("primary", Flag)];

pub const ROUTES: &[Route] = &[
    Route {
        api: "describeKeyVersion",
        path: "/keyVersion/describeKeyVersion",
        title: "查看密钥版本",
        request: &[required("cmkUuid", Kind::Text), required("keyVersionId", Kind::Text)],
        response: &[output("keyVersion", Object(VERSION))],
        codes: &[KMS_0102, KMS_0105, KMS_0240, KMS_0301, KMS_0304],
        run: api::describe_key_version,
    },
    Route {
        api: "listKeyVersions",
        path: "/keyVersion/listKeyVersions",
        title: "列出主密钥的所有密钥版本",
        request: &[
            required("cmkUuid", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output("keyVersions", Objects(VERSION)),
        ],
        codes: &[KMS_0101, KMS_0102, KMS_0130, KMS_0231, KMS_0240, KMS_0301],
        run: api::list_key_versions,
    },
    Route {
        api: "updateRotationPolicy",
        path: "/keyVersion/updateRotationPolicy",
        title: "更新轮转策略",
        request: &[
            required("cmkUuid", Kind::Text),
            required("enableAutomaticRotation", Kind::Flag),
            optional("rotationInterval", Kind::TextOrNumber),
        ],
        response: &[],
        codes: &[KMS_0102, KMS_0116, KMS_0118, KMS_0211, KMS_0217, KMS_0224, KMS_0230, KMS_0240, KMS_0301, KMS_0517],
        run: api::update_rotation_policy,
    },
    Route {
        api: "createKeyVersion",
        path: "/keyVersion/createKeyVersion",
        title: "创建密钥版本",
        request: &[required("cmkUuid", Kind::Text)],
        response: &[output("keyVersion", Object(VERSION))],
        codes: &[KMS_0102, KMS_0211, KMS_0228, KMS_0229, KMS_0230, KMS_0240, KMS_0301, KMS_0306, KMS_0516],
        run: api::create_key_version,
    },
];
