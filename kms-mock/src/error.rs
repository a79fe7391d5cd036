//! The error table of the service: every code with its HTTP status and its message, as one table.
//!
//! The rows are those of the provider's page "status codes" (document 10014047, dated 2023-09-21), byte for byte, oddities
//! included: some codes lack the dot, one is lower case, messages are misspelt. `meaning` is the page's Chinese explanation;
//! it is never sent.

use std::borrow::Cow;

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// HTTP status, also `code` and `statusCode` of the envelope.
    pub http: u16,
    /// `errorCode` of the envelope.
    pub code: &'static str,
    pub message: &'static str,
    pub meaning: &'static str,
}

/// The row of a code, compared exactly as it is spelt in the table.
pub fn find(code: &str) -> Option<Code> {
    TABLE.iter().copied().find(|row| row.code == code)
}

/// The codes of all refusals, in the order of the table.
pub fn codes() -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(|row| **row != SUCCESS).map(|row| row.code)
}

/// Why a request is refused: a row of the table, or the answer an injected fault asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub http: u16,
    pub code: Cow<'static, str>,
    pub message: Cow<'static, str>,
    /// Sent with HTTP status 200, whatever `http` says.
    pub soft: bool,
}

impl From<Code> for Refusal {
    fn from(row: Code) -> Self {
        Refusal { http: row.http, code: row.code.into(), message: row.message.into(), soft: false }
    }
}

impl Refusal {
    /// The refusal for a code by name. The live service may know codes that its page does not list, so a name that is not in the
    /// table stands for such a code, with status 500.
    pub fn named(code: &str) -> Self {
        match find(code) {
            Some(row) => row.into(),
            None => Refusal { http: 500, code: code.to_owned().into(), message: "Unlisted error".into(), soft: false },
        }
    }

    pub fn softly(self) -> Self {
        Refusal { soft: true, ..self }
    }
}

/// Writes a constant per row and the table of them all, so that no row can be left out of the table.
macro_rules! codes {
    ($($name:ident $http:literal $code:literal $message:literal $meaning:literal;)*) => {
        $(pub const $name: Code = Code { http: $http, code: $code, message: $message, meaning: $meaning };)*

        /// Every row, in the order of the page.
        pub static TABLE: &[Code] = &[$($name),*];
    };
}

#[rustfmt::skip]
codes! {
    SUCCESS 200 "0" "成功" "成功操作";
    KMS_0101 400 "KMS.0101" "参数缺失" "所传参数缺失";
    KMS_0102 400 "KMS.0102" "CmkUuid cannot be empty" "主密钥id不能为空";
    KMS_0103 400 "KMS.0103" "AliasName cannot be empty" "别名不能为空";
    KMS_0104 400 "KMS.0104" "Digest cannot be empty" "待签名值不能为空";
    KMS_0105 400 "KMS.0105" "KeyVersionId cannot be empty" "请选择主密钥版本";
    KMS_0106 400 "KMS.0106" "Sign algorithm cannot be empty" "请选择签名算法";
    KMS_0107 400 "KMS.0107" "Plaintext can notbe empty" "请输入需要加密的明文";
    KMS_0108 400 "KMS.0108" "Ciphertextblob cannot be empty" "请输入待解密密文";
    KMS_0109 400 "KMS.0109" "Reencrypt cmkuuid cannot be empty" "请选择转加密主密钥";
    KMS_0110 400 "KMS.0110" "Asymmetric encrypt need sourceuuid" "非对称加密需选择密文对应的主密钥id";
    KMS_0111 400 "KMS.0111" "Asymmetric encrypt need sourceKeyVersion" "非对称加密需选择密文对应的主密钥版本";
    KMS_0112 400 "KMS.0112" "DestinationUuid cannot be empty" "转加密主密钥不能为空";
    KMS_0113 400 "KMS.0113" "Protectionlevel cannot be empty" "保护等级不可为空";
    KMS_0114 400 "KMS.0114" "Algorithm cannot be empty" "加密算法不能为空";
    KMS_0115 400 "KMS.0115" "Regionid cannot be empty" "资源池id不能为空";
    KMS_0116 400 "KMS.0116" "Enableautoatocrotatiom cannot be empty" "请选择是否进行密钥轮转";
    KMS_0117 400 "KMS.0117" "Keyusage can not be empty" "请选择密钥用途";
    KMS_0118 400 "KMS.0118" "Rotationinterval cannot be empty" "请选择密钥轮转周期";
    KMS_0119 400 "KMS.0119" "Nextrotationdate is empty" "下次轮转时间为空";
    KMS_0120 400 "KMS.0120" "Algorithm for import cannot be empty" "选择导入密钥加密算法";
    KMS_0121 400 "KMS.0121" "KeySpec for publickey cannot be empty" "选择公钥类型";
    KMS_0122 400 "KMS.0122" "Pendingwindowindays cannot be empty" "选择延迟删除时间";
    KMS_0123 400 "KMS.0123" "Token cannot be empty" "token为空";
    KMS_0124 400 "KMS.0124" "Encryptenkeymeterial cannot be empty" "密钥材料不能为空";
    KMS_0125 400 "KMS.0125" "Sign value cannot be empty" "请输入签名值";
    KMS_0126 400 "KMS.0126" "Keyspec cannot be empty" "加密算法不能为空";
    KMS_0127 400 "KMS.0127" "Userid cannot be empty" "用戶id不能为空";
    KMS_0128 400 "KMS.0128" "Request JSON format is illegal" "请求JSON格式非法";
    KMS_0129 400 "KMS.0129" "The request message is too long" "请求消息太长";
    KMS_0130 400 "KMS.0130" "The page size is too large" "单页数据过多";
    KMS_0131 400 "KMS.0131" "The public blob can not be empty" "公钥不能为空";
    KMS_0132 400 "KMS.0132" "AliasName is too long" "别名长度过长";
    KMS_0133 400 "KMS.0133" "AliasName is not legal" "别名不合法";
    KMS_0134 400 "KMS.0134" "Wrappingalgorithm cannot be empty" "算法不能为空";
    KMS_0135 400 "KMS.0135" "Product cannot be empty" "产品不能为空";
    KMS_0136 400 "KMS.0136" "Product is not exist" "产品不存在";
    KMS_0137 400 "KMS.0137" "Messagetype is wrong" "消息格式错误";
    KMS_0138 400 "KMS.0138" "The certificate id is wrong" "证书ID错误";
    KMS_0139 400 "KMS.0139" "Certificate does not match certificate chain" "证书与证书链不匹配";
    KMS_0140 400 "KMS.0140" "Certificate format error" "证书格式错误";
    KMS_0141 400 "KMS.0141" "Certificate algorithm not supported" "证书算法不支持";
    KMS_0142 400 "KMS.0142" "The privatekey of the certificate cannot be exported" "证书私钥不可导出";
    KMS_0143 400 "KMS.0143" "The cert is not availible" "证书不存在";
    KMS_0144 400 "KMS.0144" "The formate of cert export is wrong" "导出证书格式错误";
    KMS_0201 400 "KMS.0201" "Alias already exists" "別名已存在";
    KMS_0202 400 "KMS.0202" "The default CMK cannot create an alias" "默认主密钥不能创建别名";
    KMS_0203 400 "KMS.0203" "The selection CMK is not available" "选择主密钥不可用";
    KMS_0204 400 "KMS.0204" "The selected CMK is not available for signature and verification" "选择的主密钥不可用于签名验签名";
    KMS_0205 400 "KMS.0205" "The selected CMK is not available for encryption and decryption" "选择的主密钥不可用于加密解密";
    KMS_0206 400 "KMS.0206" "The CMK is disabled" "密钥不是可用状态";
    KMS_0207 400 "KMS.0207" "The CMK cannot be enabled" "密钥不可启用";
    KMS_0208 400 "KMS.0208" "The Cmk has deletion task" "密钥已有删除计划";
    KMS_0209 400 "KMS.0209" "The CMK has no deletion task" "密钥无删除计划";
    KMS_0210 400 "KMS.0210" "The CMK cannot be imported" "密钥不可导入";
    KMS_0211 400 "KMS.0211" "The CMK does not support automatic rotation" "该密钥不支持自动轮转";
    KMS_0212 400 "KMS.0212" "The selection algorithm is not supported" "选择算法不支持";
    KMS_0213 400 "KMS.0213" "The CMK is not a symmetric key" "密钥不是对称密钥";
    KMS_0214 400 "KMS.0214" "The CMK is not a asymmetric key" "密钥不是非对称密钥";
    KMS_0215 400 "KMS.0215" "Wrong algorithm format" "算法格式错误";
    KMS_0216 400 "KMS.0216" "Wrong keyusage type" "密钥用途类型错误";
    KMS_0217 400 "KMS.0217" "Wrong input of parameter format! Please enter true / false" "参数格式输入有误!请输入true/false";
    KMS_0218 400 "KMS.0218" "Wrong protectionlevel" "保护等级错误";
    KMS_0219 400 "KMS.0219" "Wrong ciphertext" "密文有误";
    KMS_0220 400 "KMS.0220" "Key length input error,this algorithm only supports AES_256" "密钥长度输入错误,该算法仅支持AES_256";
    KMS_0221 400 "KMS.0221" "Key length input error,this algorithm only supports SM4_128" "密钥长度输入错误,该算法仅支持SM4_128";
    KMS_0222 400 "KMS.0222" "Key length input error,this algorithm only supports RSA_2048" "密钥长度输入错误,该算法仅支持RSA_2048";
    KMS_0223 400 "KMS.0223" "This algorithm only supports AES/SM4" "目前仅支持AES/SM4算法";
    KMS_0224 400 "KMS.0224" "Wrong rotationlevel format" "轮转周期格式不合法";
    KMS_0225 400 "KMS.0225" "Asymmetric CMK cannot be imported" "非对称密钥不可导入";
    KMS_0226 400 "KMS.0226" "Wrong pendingwindowindays format" "删除时间不合法";
    KMS_0227 400 "KMS.0227" "Unsupported keyspec" "不支持的密钥类型";
    KMS_0228 400 "KMS.0228" "The number of the CMK rotation of the user has reached the upper limit" "该用户密钥轮转次数已达上限!";
    KMS_0229 400 "KMS.0229" "Failed to execute key rotation. The key has been rotated within 7 days!" "执行密钥轮转失败,该密钥7天内已执行过轮转!";
    KMS_0230 400 "KMS.0230" "The current CMK is in the state of pause rotation. Please enable the master key or cancel the plan deletion before operation!" "当前密钥处于暂停轮转状态,请启用主密钥或取消计划删除后再操作";
    KMS_0231 400 "KMS.0231" "PageSize exceeds threshold" "pagesize超过阈值";
    KMS_0232 400 "KMS.0232" "Symmetric key can not use to sign or verify" "对称密钥不能用于签名验签";
    KMS_0233 400 "KMS.0233" "This key cannot operation alias" "密钥不能操作别名";
    KMS_0234 400 "KMS.0234" "Default key cannot delete alias" "默认密钥不能删除别名";
    KMS_0235 400 "KMS.0235" "WRONG time format" "时间格式错误";
    KMS_0236 400 "KMS.0236" "Wrong algorithm for import" "导入密钥算法错误";
    KMS_0237 400 "KMS.0237" "Wrong keyspec for import" "算法格式错误";
    KMS_0238 400 "KMS.0238" "The number of asymmetric keys in a region cannot be greater than 50" "非对称密钥不能超过50个";
    KMS_0239 400 "KMS.0239" "Key decryption failed" "密钥解密失败";
    KMS_0240 400 "KMS.0240" "Cmkuuid is not legal" "cmkuuid不合法";
    KMS_0241 400 "KMS.0241" "Cmk length is wrong" "对称密钥长度不合法";
    KMS_0242 400 "KMS.0242" "Origin type wrong" "密钥类型格式错误";
    KMS_0243 400 "KMS.0243" "The default CMK cannot update an alias" "默认主密钥不能创建别名";
    KMS_0244 400 "KMS.0244" "The destinationKeyId is not a symmetric key" "转加密密钥不是对称密钥";
    KMS_0245 400 "KMS.0245" "The Meterial for import is already exist" "密钥材料已经存在";
    KMS_0246 400 "KMS.0246" "destinationKeyId cannot use" "ID无法使用";
    KMS_0247 400 "KMS.0247" "Data key ciphertext wrong" "数据密钥密文错误";
    KMS_0248 400 "KMS.0248" "The cmk already has a meterial" "该密钥已导入";
    KMS_0249 400 "KMS.0249" "The length of plaintext exceeds the limit" "加密数据长度超过限制";
    KMS_0250 400 "KMS.0250" "Asymmetric CMK cannot create datakey" "非对称主密钥不能创建数据密钥";
    KMS_0251 400 "KMS.0251" "Only support RSA cmk" "只支持RSA类型的密钥";
    KMS_0252 400 "KMS.0252" "Plaintext need to be base64" "非对称密钥加密解密的明文需要base64";
    KMS_0253 400 "KMS.0253" "KeySpec cannot be empty" "密钥类型不能为空";
    KMS_0254 400 "KMS0254" "Subject cannot be empty" "证书主体不能为空";
    KMS_0255 400 "KMS0255" "certificateId cannot be empty" "证书id不能为空";
    KMS_0256 400 "KMS0256" "status cannot be empty" "证书状态不能为空";
    KMS_0257 400 "KMS0257" "the certificate has not been imported" "证书未导入";
    KMS_0258 400 "KMS0258" "the certificate has been active" "证书已被启用";
    KMS_0259 400 "KMS0259" "the certificate has been revoked" "证书已被吊销";
    KMS_0260 400 "KMS0260" "the certificate has been inactive" "证书已被禁用";
    KMS_0301 404 "KMS.0301" "The CMK does not exist or has been deleted" "密钥不存在或已删除";
    KMS_0302 404 "KMS.0302" "The target CMK does not exist" "目标主密钥不存在";
    KMS_0303 404 "KMS.0303" "The target alias does not exist" "目标别名不存在";
    KMS_0304 404 "KMS.0304" "The target CMK does not exist or in illegal status" "目标主密钥不存在或状态不合法";
    KMS_0305 404 "KMS.0305" "The destination cmk does not exist or has been deleted" "密钥不存在或已删除";
    KMS_0306 404 "KMS.0306" "The cmk is not enable" "密钥不存在或已删除";
    KMS_0307 404 "KMS.0307" "DestinationKeyId do not exist" "DestinationKeyId不存在";
    KMS_0308 404 "KMS.0308" "The soucekeyid CMK does not exist" "密钥不存在";
    KMS_0309 404 "KMS.0309" "The certificate does not exist or has been deleted" "证书不存在或已删除";
    KMS_0310 404 "KMS0310" "The certificate hsa been deleted" "证书已被删除";
    KMS_0401 401 "KMS.0401" "Token validation failed" "token验证失败";
    KMS_0402 401 "KMS.0402" "Sign wrong" "AKSK签名错误";
    KMS_0403 401 "KMS.0403" "Time format wrong" "时间格式错误";
    KMS_0404 401 "KMS.0404" "Out of time" "超时";
    KMS_0405 401 "KMS.0405" "You cannot visit the url" "无法访问";
    KMS_0406 401 "KMS.0406" "User is freeze" "用户被冻结";
    KMS_0407 401 "kms.0407" "Interface counter exceeded" "接口达到访问次数";
    KMS_0501 500 "KMS.0501" "There are no rotation tasks to be performed" "没有待执行的轮转任务";
    KMS_0502 500 "KMS.0502" "Failed to delete alias" "刪除别名失败";
    KMS_0503 500 "KMS.0503" "Key initialization failed" "密钥初始化失败";
    KMS_0504 500 "KMS.0504" "Key decryption failed" "密钥解密失败";
    KMS_0505 500 "KMS.0505" "HSM failed to create user key" "密码机创建用户密钥失败";
    KMS_0506 500 "KMS.0506" "Failed to create delay delete task" "创建延时删除任务失败";
    KMS_0507 500 "KMS.0507" "Failed to send MQ for rotation task" "轮转任务发送mq失败";
    KMS_0508 500 "KMS.0508" "Delay delete task sending MQ failed" "延时删除任务发送mq失败";
    KMS_0509 500 "KMS.0509" "Failed to send MQ for delete key material task" "删除密钥材料任务发送mq失败";
    KMS_0510 500 "KMS.0510" "Failed to create default CMK" "创建默认主密钥失败";
    KMS_0511 500 "KMS.0511" "Failed to get random key" "获取随机密钥失败";
    KMS_0512 500 "KMS.0512" "Failed to create data key" "创建数据密钥失败";
    KMS_0513 500 "KMS.0513" "Data key decryption failed" "数据密钥解密失败";
    KMS_0514 500 "KMS.0514" "CMK encryption failed" "用戶主密钥加密失败";
    KMS_0515 500 "KMS.0515" "Failed to create CMK" "创建用户密钥失败";
    KMS_0516 500 "KMS.0516" "Key rotation failed!" "执行密钥轮转失败";
    KMS_0517 500 "KMS.0517" "Failed to execute key rotation policy" "执行密钥轮转策略失败";
    KMS_0518 500 "KMS.0518" "Failed to update key description" "更新密钥轮转策略失败";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_equals_the_published_one() {
        let published = include_str!("../tests/data/kms-error-table.tsv");
        let mut ours = String::from("http\tcode\tmessage\tmeaning\n");
        for row in TABLE {
            ours += &format!("{}\t{}\t{}\t{}\n", row.http, row.code, row.message, row.meaning);
        }
        assert_eq!(ours, published);
        assert_eq!(TABLE.len(), 140);
    }

    #[test]
    fn codes_are_unique_and_found_as_spelt() {
        for row in TABLE {
            assert_eq!(find(row.code), Some(*row));
        }
        assert_eq!(find("KMS.0254"), None);
        assert_eq!(Refusal::named("KMS.0999").http, 500);
    }
}
