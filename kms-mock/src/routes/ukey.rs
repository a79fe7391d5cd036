//! Routes of the certificates of USB keys.

use super::Shape::{Flag, Number, Objects, Text};
use super::{Output, Route, output};
use crate::api::certificate::ukey as api;
use crate::error::*;
use crate::fields::{Kind, optional, required};

const UKEY: &[Output] = &[
    output("ukId", Text),
    output("ukName", Text),
    output("algorithm", Text),
    output("status", Text),
    output("cert", Text),
    output("subject", Text),
    output("issuer", Text),
    output("serial", Text),
    output("notBefore", Text),
    output("notAfter", Text),
    output("createdAt", Text),
];

pub const ROUTES: &[Route] = &[
    Route {
        api: "listCertificatesForUK",
        path: "/manageCertificate/listCertificatesForUK",
        title: "查询UK证书列表",
        request: &[
            optional("ukName", Kind::Text),
            optional("status", Kind::Text),
            optional("pageNumber", Kind::Number),
            optional("pageSize", Kind::Number),
        ],
        response: &[
            output("pageNumber", Number),
            output("pageSize", Number),
            output("totalCount", Number),
            output("certificates", Objects(UKEY)),
        ],
        codes: &[KMS_0101, KMS_0130, KMS_0231],
        run: api::list_certificates_for_uk,
    },
    Route {
        api: "describeCertificateForUK",
        path: "/manageCertificate/describeCertificateForUK",
        title: "查询UKey证书详情",
        request: &[optional("ukId", Kind::Text), optional("certificateId", Kind::Text)],
        response: UKEY,
        codes: &[KMS_0138, KMS_0143, KMS_0255],
        run: api::describe_certificate_for_uk,
    },
    Route {
        api: "importCertificateForUK",
        path: "/manageCertificate/importCertificateForUK",
        title: "导入UK证书",
        request: &[required("algorithm", Kind::Text), required("ukName", Kind::Text), required("cert", Kind::Text)],
        response: &[output("ukId", Text)],
        codes: &[KMS_0101, KMS_0114, KMS_0140, KMS_0141],
        run: api::import_certificate_for_uk,
    },
    Route {
        api: "deleteCertificateForUK",
        path: "/manageCertificate/deleteCertificateForUK",
        title: "删除UK证书",
        request: &[optional("ukId", Kind::Text), optional("certificateId", Kind::Text)],
        response: &[],
        codes: &[KMS_0138, KMS_0143, KMS_0255, KMS_0310],
        run: api::delete_certificate_for_uk,
    },
    Route {
        api: "updateCertificateStatusForUK",
        path: "/manageCertificate/updateCertificateStatusForUK",
        title: "修改UK证书状态",
        request: &[optional("ukId", Kind::Text), optional("certificateId", Kind::Text), required("status", Kind::Text)],
        response: &[],
        codes: &[KMS_0101, KMS_0138, KMS_0143, KMS_0255, KMS_0256, KMS_0258, KMS_0259, KMS_0260],
        run: api::update_certificate_status_for_uk,
    },
    Route {
        api: "certificatePublicKeyVerifyForUsbKey",
        path: "/certificateCompute/certificatePublicKeyVerifyForUsbKey",
        title: "UKey证书公钥验签",
        request: &[
            required("algorithm", Kind::Text),
            required("certificateId", Kind::Text),
            required("message", Kind::Text),
            required("signatureValue", Kind::Text),
        ],
        response: &[output("signatureValid", Flag)],
        codes: &[KMS_0104, KMS_0106, KMS_0125, KMS_0143, KMS_0212, KMS_0255, KMS_0259, KMS_0260],
        run: api::certificate_public_key_verify_for_usb_key,
    },
];
