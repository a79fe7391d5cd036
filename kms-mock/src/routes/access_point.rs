//! Routes of application access points.

use super::Shape::{Flag, Number, Objects, Text, Texts};
use super::{Output, Route, output};
use crate::api::access_point::{access_keys, network, permissions, points};
use crate::error::*;
use crate::fields::{Field, Kind, optional, required};

const POINT: &[Output] = &[
    output("accessPointId", Text),
    output("name", Text),
    output("instanceId", Text),
    output("vpcId", Text),
    output("subnetId", Text),
    output("endpoint", Text),
    output("status", Text),
    output("permissionCheck", Flag),
    output("creationDate", Text),
];

const API: &[Field] = &[required("apiName", Kind::Text), required("allowed", Kind::Flag)];

const RESOURCE: &[Field] =
    &[required("resourceType", Kind::Text), required("resourceId", Kind::Text), required("allowed", Kind::Flag)];

const ENDPOINT: &[Field] =
    &[required("endpointId", Kind::Text), required("cidr", Kind::Text), optional("description", Kind::Text)];

pub const ROUTES: &[Route] = &[
    Route {
        api: "listApiPermissions",
        path: "/accessPoint/listApiPermissions",
        title: "查询接入点的接口权限列表",
        request: &[
            required("accessPointId", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output("apis", Objects(&[output("apiName", Text), output("servicePath", Text), output("allowed", Flag)])),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0231],
        run: permissions::list_api_permissions,
    },
    Route {
        api: "listAccessPoints",
        path: "/accessPoint/listAccessPoints",
        title: "查询应用点接入列表",
        request: &[
            optional("name", Kind::Text),
            optional("status", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output("accessPoints", Objects(POINT)),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0231],
        run: points::list_access_points,
    },
    Route {
        api: "listEndpointWhitelist",
        path: "/accessPoint/listEndpointWhitelist",
        title: "查询接入点的终端节点白名单",
        request: &[
            required("accessPointId", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output(
                "endpoints",
                Objects(&[output("endpointId", Text), output("cidr", Text), output("description", Text)]),
            ),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0231],
        run: network::list_endpoint_whitelist,
    },
    Route {
        api: "listResourcePermissions",
        path: "/accessPoint/listResourcePermissions",
        title: "查询资源权限列表",
        request: &[
            required("accessPointId", Kind::Text),
            optional("resourceType", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output(
                "resources",
                Objects(&[output("resourceType", Text), output("resourceId", Text), output("allowed", Flag)]),
            ),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0231],
        run: permissions::list_resource_permissions,
    },
    Route {
        api: "listVpcs",
        path: "/accessPoint/listVpcs",
        title: "查询VPC列表",
        request: &[optional("pageNumber", Kind::Number), optional("pageSize", Kind::Number)],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output("vpcs", Objects(&[output("vpcId", Text), output("vpcName", Text), output("cidr", Text)])),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0231],
        run: network::list_vpcs,
    },
    Route {
        api: "listSubnets",
        path: "/accessPoint/listSubnets",
        title: "查询子网列表",
        request: &[
            required("vpcId", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output("subnets", Objects(&[output("subnetId", Text), output("subnetName", Text), output("cidr", Text)])),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0231],
        run: network::list_subnets,
    },
    Route {
        api: "listAccessKeys",
        path: "/accessPoint/listAccessKeys",
        title: "查询租户ak列表信息",
        request: &[
            required("accessPointId", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output(
                "accessKeys",
                Objects(&[
                    output("accessKey", Text),
                    output("status", Text),
                    output("creationDate", Text),
                    output("lastUsedDate", Text),
                ]),
            ),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0231],
        run: access_keys::list_access_keys,
    },
    Route {
        api: "createAccessPoint",
        path: "/accessPoint/createAccessPoint",
        title: "创建应用接入点",
        request: &[
            required("name", Kind::Text),
            required("vpcId", Kind::Text),
            required("subnetId", Kind::Text),
            optional("instanceId", Kind::Text),
            optional("description", Kind::Text),
        ],
        response: &[output("accessPointId", Text), output("endpoint", Text)],
        codes: &[KMS_0101, KMS_0503],
        run: points::create_access_point,
    },
    Route {
        api: "createAccessKey",
        path: "/accessPoint/createAccessKey",
        title: "创建租户凭证aksk",
        request: &[required("accessPointId", Kind::Text)],
        response: &[output("accessKey", Text), output("secretKey", Text)],
        codes: &[KMS_0101, KMS_0503],
        run: access_keys::create_access_key,
    },
    Route {
        api: "disablePermissionCheck",
        path: "/accessPoint/disablePermissionCheck",
        title: "关闭接入点权限控制",
        request: &[required("accessPointId", Kind::Text)],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: permissions::disable_permission_check,
    },
    Route {
        api: "getResourcePermission",
        path: "/accessPoint/getResourcePermission",
        title: "获取接入点的资源权限详情",
        request: &[
            required("accessPointId", Kind::Text),
            required("resourceType", Kind::Text),
            required("resourceId", Kind::Text),
        ],
        response: &[
            output("resourceType", Text),
            output("resourceId", Text),
            output("allowed", Flag),
            output("apis", Texts),
        ],
        codes: &[KMS_0101],
        run: permissions::get_resource_permission,
    },
    Route {
        api: "isPermissionCheckEnabled",
        path: "/accessPoint/isPermissionCheckEnabled",
        title: "检查接入点是否开启权限判断",
        request: &[required("accessPointId", Kind::Text)],
        response: &[output("enabled", Flag)],
        codes: &[KMS_0101],
        run: permissions::is_permission_check_enabled,
    },
    Route {
        api: "updateApiPermissions",
        path: "/accessPoint/updateApiPermissions",
        title: "接口权限变更",
        request: &[required("accessPointId", Kind::Text), required("apis", Kind::Objects(API))],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: permissions::update_api_permissions,
    },
    Route {
        api: "disableAccessKey",
        path: "/accessPoint/disableAccessKey",
        title: "禁用租户ak",
        request: &[required("accessPointId", Kind::Text), required("accessKey", Kind::Text)],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: access_keys::disable_access_key,
    },
    Route {
        api: "enableAccessKey",
        path: "/accessPoint/enableAccessKey",
        title: "启用租户ak",
        request: &[required("accessPointId", Kind::Text), required("accessKey", Kind::Text)],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: access_keys::enable_access_key,
    },
    Route {
        api: "deleteAccessPoint",
        path: "/accessPoint/deleteAccessPoint",
        title: "删除应用接入点",
        request: &[required("accessPointId", Kind::Text)],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: points::delete_access_point,
    },
    Route {
        api: "deleteAccessKey",
        path: "/accessPoint/deleteAccessKey",
        title: "删除租户ak",
        request: &[required("accessPointId", Kind::Text), required("accessKey", Kind::Text)],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: access_keys::delete_access_key,
    },
    Route {
        api: "addEndpointWhitelist",
        path: "/accessPoint/addEndpointWhitelist",
        title: "添加终端节点白名单",
        request: &[required("accessPointId", Kind::Text), required("endpoints", Kind::Objects(ENDPOINT))],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: network::add_endpoint_whitelist,
    },
    Route {
        api: "updateResourcePermissions",
        path: "/accessPoint/updateResourcePermissions",
        title: "资源权限变更",
        request: &[required("accessPointId", Kind::Text), required("resources", Kind::Objects(RESOURCE))],
        response: &[],
        codes: &[KMS_0101, KMS_0503],
        run: permissions::update_resource_permissions,
    },
    Route {
        api: "getTenantApiPermissions",
        path: "/accessPoint/getTenantApiPermissions",
        title: "租户接口权限详情",
        request: &[],
        response: &[output("apis", Objects(&[output("apiName", Text), output("allowed", Flag)]))],
        codes: &[],
        run: permissions::get_tenant_api_permissions,
    },
];
