//! Routes of the key lifecycle.

use super::Shape::{Flag, Number, Objects, Text};
use super::{Output, Route, output};
use crate::api::key_lifecycle as api;
use crate::error::*;
use crate::fields::{Field, Kind, optional, required};

/// `keyMetadata`
pub const KEY: &[Output] = &[
    output("cmkUuid", Text),
    output("keyState", Text),
    output("keySpec", Text),
    output("keyUsage", Text),
    output("origin", Text),
    output("protectionLevel", Text),
    output("description", Text),
    output("creationDate", Text),
    output("deleteDate", Text),
    output("primaryKeyVersion", Text),
    output("automaticRotation", Text),
    output("rotationInterval", Text),
    output("lastRotationDate", Text),
    output("nextRotationDate", Text),
    output("materialExpireTime", Text),
    output("deletionProtection", Text),
    output("creator", Text),
    output("regionId", Text),
    output("instanceId", Text),
    output("epId", Text),
    output("isDefault", Flag),
];

/// A request that names a key and nothing else.
pub const CMK: &[Field] = &[required("cmkUuid", Kind::Text)];

pub const TAG: &[Field] = &[required("tagKey", Kind::Text), required("tagValue", Kind::Text)];

pub const ROUTES: &[Route] = &[
    Route {
        api: "createKey",
        path: "/cmkManage/createKey",
        title: "创建用户主密钥",
        request: &[
            required("keySpec", Kind::Text),
            required("keyUsage", Kind::Text),
            required("protectionLevel", Kind::TextOrNumber),
            optional("enableAutomaticRotation", Kind::Flag),
            optional("rotationInterval", Kind::TextOrNumber),
            optional("origin", Kind::Text),
            optional("description", Kind::Text),
            optional("algorithm", Kind::Text),
            optional("instanceId", Kind::Text),
            optional("epId", Kind::Text),
            optional("tags", Kind::Objects(TAG)),
        ],
        response: KEY,
        codes: &[
            KMS_0101, KMS_0113, KMS_0116, KMS_0117, KMS_0118, KMS_0126, KMS_0211, KMS_0216, KMS_0217, KMS_0218,
            KMS_0220, KMS_0221, KMS_0222, KMS_0224, KMS_0225, KMS_0227, KMS_0238, KMS_0242, KMS_0515,
        ],
        run: api::create_key,
    },
    Route {
        api: "enableKey",
        path: "/cmkManage/enableKey",
        title: "启用密钥",
        request: CMK,
        response: &[],
        codes: &[KMS_0102, KMS_0240, KMS_0301, KMS_0203, KMS_0207, KMS_0503],
        run: api::enable_key,
    },
    Route {
        api: "disableKey",
        path: "/cmkManage/disableKey",
        title: "禁用密钥",
        request: CMK,
        response: &[],
        codes: &[KMS_0102, KMS_0240, KMS_0301, KMS_0203, KMS_0503],
        run: api::disable_key,
    },
    Route {
        api: "scheduleKeyDeletion",
        path: "/cmkManage/scheduleKeyDeletion",
        title: "计划删除密钥",
        request: &[required("cmkUuid", Kind::Text), required("pendingWindowInDays", Kind::Number)],
        response: &[output("cmkUuid", Text), output("deleteDate", Text)],
        codes: &[KMS_0102, KMS_0240, KMS_0301, KMS_0122, KMS_0203, KMS_0208, KMS_0226, KMS_0506],
        run: api::schedule_key_deletion,
    },
    Route {
        api: "cancelKeyDeletion",
        path: "/cmkManage/cancelKeyDeletion",
        title: "取消计划删除密钥",
        request: CMK,
        response: &[],
        codes: &[KMS_0102, KMS_0240, KMS_0301, KMS_0209, KMS_0503],
        run: api::cancel_key_deletion,
    },
    Route {
        api: "updateKeyDescription",
        path: "/cmkManage/updateKeyDescription",
        title: "更新密钥描述",
        request: &[required("cmkUuid", Kind::Text), required("description", Kind::Text)],
        response: &[],
        codes: &[KMS_0101, KMS_0102, KMS_0240, KMS_0301, KMS_0518],
        run: api::update_key_description,
    },
    Route {
        api: "describeKey",
        path: "/cmkManage/describeKey",
        title: "查看密钥详情",
        request: CMK,
        response: KEY,
        codes: &[KMS_0102, KMS_0240, KMS_0301, KMS_0303],
        run: api::describe_key,
    },
    Route {
        api: "listKeys",
        path: "/cmkManage/listKeys",
        title: "批量查询密钥信息",
        request: &[
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
            optional("keyState", Kind::Text),
            optional("keySpec", Kind::Text),
            optional("keyUsage", Kind::Text),
            optional("origin", Kind::Text),
            optional("protectionLevel", Kind::TextOrNumber),
            optional("product", Kind::Text),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output("keys", Objects(KEY)),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0135, KMS_0136, KMS_0231],
        run: api::list_keys,
    },
    Route {
        api: "enableDeletionProtection",
        path: "/cmkManage/enableDeletionProtection",
        title: "密钥删除保护",
        request: &[required("cmkUuid", Kind::Text), optional("deletionProtectionDescription", Kind::Text)],
        response: &[],
        codes: &[KMS_0102, KMS_0240, KMS_0301, KMS_0203, KMS_0503],
        run: api::enable_deletion_protection,
    },
    Route {
        api: "disableDeletionProtection",
        path: "/cmkManage/disableDeletionProtection",
        title: "取消密钥删除保护",
        request: CMK,
        response: &[],
        codes: &[KMS_0102, KMS_0240, KMS_0301, KMS_0503],
        run: api::disable_deletion_protection,
    },
];
