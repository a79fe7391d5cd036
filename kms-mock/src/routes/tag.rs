//! Routes of tags.

use super::Shape::{Number, Objects, Text};
use super::{Route, output};
use crate::api::tag as api;
use crate::error::*;
use crate::fields::{Kind, optional, required};

pub const ROUTES: &[Route] = &[
    Route {
        api: "listTags",
        path: "/tagManage/listTags",
        title: "查询账号标签列表",
        request: &[
            optional("tagKey", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output(
                "tags",
                Objects(&[
                    output("tagId", Text),
                    output("tagKey", Text),
                    output("tagValue", Text),
                    output("resourceCount", Number),
                ]),
            ),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0231],
        run: api::list_tags,
    },
    Route {
        api: "updateTag",
        path: "/tagManage/updateTag",
        title: "修改标签接口",
        request: &[required("tagId", Kind::Text), required("tagValue", Kind::Text)],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: api::update_tag,
    },
    Route {
        api: "deleteTag",
        path: "/tagManage/deleteTag",
        title: "删除标签接口",
        request: &[required("tagId", Kind::Text)],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: api::delete_tag,
    },
    Route {
        api: "createTag",
        path: "/tagManage/createTag",
        title: "新增标签接口",
        request: &[required("tagKey", Kind::Text), required("tagValue", Kind::Text)],
        response: &[output("tagId", Text)],
        codes: &[KMS_0101, KMS_0503],
        run: api::create_tag,
    },
    Route {
        api: "bindTags",
        path: "/tagManage/bindTags",
        title: "资源绑定标签接口",
        request: &[
            required("resourceType", Kind::Text),
            required("resourceId", Kind::Text),
            required("tagIds", Kind::Texts),
        ],
        response: &[],
        codes: &[KMS_0101, KMS_0301, KMS_0309, KMS_0503],
        run: api::bind_tags,
    },
    Route {
        api: "unbindTags",
        path: "/tagManage/unbindTags",
        title: "资源解绑标签接口",
        request: &[
            required("resourceType", Kind::Text),
            required("resourceId", Kind::Text),
            required("tagIds", Kind::Texts),
        ],
        response: &[],
        codes: &[KMS_0101, KMS_0301, KMS_0309, KMS_0503],
        run: api::unbind_tags,
    },
];
