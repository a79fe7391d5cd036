//! Routes of aliases.

use super::Shape::{Number, Objects, Text};
use super::{Output, Route, output};
use crate::api::alias as api;
use crate::error::*;
use crate::fields::{Field, Kind, optional, required};

const TARGET: &[Field] = &[required("aliasName", Kind::Text), required("cmkUuid", Kind::Text)];

const ALIASES: &[Output] = &[
    output("pageNumber", Number),
    output("pageSize", Number),
    output("totalCount", Number),
    output("aliases", Objects(&[output("aliasName", Text), output("cmkUuid", Text)])),
];

pub const ROUTES: &[Route] = &[
    Route {
        api: "createAlias",
        path: "/aliasManage/createAlias",
        title: "创建别名",
        request: TARGET,
        response: &[],
        codes: &[KMS_0102, KMS_0103, KMS_0132, KMS_0133, KMS_0201, KMS_0202, KMS_0233, KMS_0240, KMS_0302, KMS_0503],
        run: api::create_alias,
    },
    Route {
        api: "updateAlias",
        path: "/aliasManage/updateAlias",
        title: "更新别名",
        request: TARGET,
        response: &[],
        codes: &[KMS_0102, KMS_0103, KMS_0132, KMS_0133, KMS_0240, KMS_0243, KMS_0303, KMS_0304, KMS_0503],
        run: api::update_alias,
    },
    Route {
        api: "deleteAlias",
        path: "/aliasManage/deleteAlias",
        title: "删除别名",
        request: &[required("aliasName", Kind::Text)],
        response: &[],
        codes: &[KMS_0103, KMS_0133, KMS_0234, KMS_0303, KMS_0502],
        run: api::delete_alias,
    },
    Route {
        api: "listAliases",
        path: "/aliasManage/listAliases",
        title: "列出账号在某地域下的所有别名",
        request: &[
            optional("regionId", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: ALIASES,
        codes: &[KMS_0101, KMS_0115, KMS_0130, KMS_0231],
        run: api::list_aliases,
    },
    Route {
        api: "listAliasesByCmkUuid",
        path: "/aliasManage/listAliasesByCmkUuid",
        title: "列出与指定用户主密钥绑定的别名",
        request: &[
            required("cmkUuid", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: ALIASES,
        codes: &[KMS_0101, KMS_0102, KMS_0130, KMS_0231, KMS_0240, KMS_0301],
        run: api::list_aliases_by_cmk_uuid,
    },
];
