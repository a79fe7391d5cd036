//! What can go wrong with a KMS call, and what each code of the service means to a file system.
//!
//! Two things are kept apart all the way up: the service *said no* ([`KmsError::Refused`]) and it *could not be asked*
//! ([`KmsError::Unreachable`] and its neighbours). The service's codes stand in one table at the end of the file; its
//! source is the provider's page "status codes", kept in `tests/data/kms/error-table.tsv`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use RefusalKind::*;
use Retry::*;

/// Cheap to clone: one failed call answers every waiter.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KmsError {
    /// The service answered, and the answer is no.
    #[error("{0}")]
    Refused(Arc<Refusal>),
    /// No connection, or a gateway (HTTP 502, 503, 504) without the service behind it.
    #[error("the KMS cannot be reached: {cause}")]
    Unreachable { cause: Arc<str> },
    #[error("the KMS did not answer within {after:?}")]
    TimedOut { after: Duration },
    /// The connection broke between request and answer; the service may have acted.
    #[error("the connection to the KMS broke: {cause}")]
    Transport { cause: Arc<str> },
    /// An answer that is none: not the service's envelope, too long, a field missing, a redirect.
    #[error("the KMS gave an answer that cannot be used: {what}")]
    BadResponse { what: Arc<str> },
    /// A well-formed answer to another question: other ids or another key length than asked for.
    #[error("the KMS answered something else than was asked: {what}")]
    Lied { what: Arc<str> },
}

/// A refusal in the service's words, and what it means.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The API that was called.
    pub api: &'static str,
    /// As the service spelt it; empty if it named none.
    pub code: String,
    /// The service's text, cut at a length that is fit for a log. Untrusted: print it escaped.
    pub message: String,
    pub request_id: Option<String>,
    /// Of the HTTP answer, or the one named in the body where HTTP itself said 200.
    pub http_status: u16,
    pub meaning: RefusalKind,
    retry: Retry,
}

/// What a refusal means to someone who wants to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// Credentials, signature or permission; a frozen account.
    Denied,
    /// The KMS key exists and is switched off.
    Disabled,
    /// The KMS key exists and may not be used now: it awaits deletion or the import of its material. (The service has one
    /// code for both.)
    PendingDeletion,
    /// The KMS key, one of its versions or an alias is unknown or deleted.
    Gone,
    /// The quota is used up.
    Throttled,
    /// The wrapped key cannot be opened: it was changed, or its key version is missing.
    WrongCiphertext,
    /// The service failed.
    Internal,
    /// A request that this client should not have made, or a KMS key of a kind that cannot wrap data keys.
    BadRequest,
    /// The service takes this machine's clock for wrong.
    ClockSkew,
    Other,
}

/// Whether another attempt can help. Asked by `retry.rs` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Final,
    Backoff,
    /// Once, at once: the signature carries a date.
    FreshDate,
}

impl KmsError {
    pub(crate) fn unreachable(cause: impl Into<Arc<str>>) -> Self {
        Self::Unreachable { cause: cause.into() }
    }

    pub(crate) fn bad_response(what: impl Into<Arc<str>>) -> Self {
        Self::BadResponse { what: what.into() }
    }

    pub(crate) fn lied(what: impl Into<Arc<str>>) -> Self {
        Self::Lied { what: what.into() }
    }

    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    pub fn kind(&self) -> Option<RefusalKind> {
        self.refusal().map(|refusal| refusal.meaning)
    }

    /// The service does not let us use this key now: no permission, frozen, disabled, pending deletion. For a file this is
    /// "access denied".
    pub fn is_denied(&self) -> bool {
        matches!(self.kind(), Some(Denied | Disabled | PendingDeletion))
    }

    /// The KMS key is unknown or deleted: what it wrapped may be lost for good.
    pub fn is_gone(&self) -> bool {
        self.kind() == Some(RefusalKind::Gone)
    }

    /// "Could not ask": nothing is known about the key. Never true for an answer of the service itself.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Transport { .. })
    }

    pub fn is_timed_out(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    pub fn is_throttled(&self) -> bool {
        self.kind() == Some(RefusalKind::Throttled)
    }

    /// The service is not able to decide now: not reachable, over its quota, or failing inside. Says nothing against the
    /// use of the key, so a cached one may serve where `offline_ttl` allows it.
    pub fn is_outage(&self) -> bool {
        self.is_unreachable() || matches!(self.kind(), Some(RefusalKind::Throttled | RefusalKind::Internal))
    }

    /// The wrapped key itself is bad: it was changed, or it is not what the service says it is.
    pub fn is_wrong_ciphertext(&self) -> bool {
        self.kind() == Some(RefusalKind::WrongCiphertext) || matches!(self, Self::Lied { .. })
    }

    pub fn is_bad_response(&self) -> bool {
        matches!(self, Self::BadResponse { .. } | Self::Lied { .. })
    }

    pub fn is_clock_skew(&self) -> bool {
        self.kind() == Some(RefusalKind::ClockSkew)
    }

    /// The service's own code, as it spelt it, for logs and metrics.
    pub fn code(&self) -> Option<&str> {
        self.refusal().map(|refusal| refusal.code.as_str()).filter(|code| !code.is_empty())
    }

    pub fn request_id(&self) -> Option<&str> {
        self.refusal().and_then(|refusal| refusal.request_id.as_deref())
    }

    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(refusal) => refusal.retry,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Transport { .. } => Retry::Backoff,
            Self::BadResponse { .. } | Self::Lied { .. } => Retry::Final,
        }
    }
}

impl From<Refusal> for KmsError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Arc::new(refusal))
    }
}

impl Refusal {
    /// Reads the meaning from the code or, where the code is not known, from the status.
    pub fn new(api: &'static str, code: String, message: String, request_id: Option<String>, http_status: u16) -> Self {
        let (meaning, retry) = meaning_of(&code, http_status);
        let message = message.chars().take(MESSAGE_MAX).collect();
        Self { api, code, message, request_id, http_status, meaning, retry }
    }
}

/// The service's texts are short sentences.
const MESSAGE_MAX: usize = 256;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = if self.code.is_empty() { "no code" } else { &self.code };
        write!(f, "the KMS refused {}: {}", self.api, code.escape_debug())?;
        if !self.message.is_empty() {
            write!(f, " {:?}", self.message)?;
        }
        write!(f, " (HTTP {}", self.http_status)?;
        if let Some(id) = &self.request_id {
            write!(f, ", request {}", id.escape_debug())?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refusal({:?}: {self})", self.meaning)
    }
}

/// A code that the table lacks is a failure of its HTTP class: the provider's page is older than its service.
fn meaning_of(code: &str, http_status: u16) -> (RefusalKind, Retry) {
    if let Some(row) = row_of(code) {
        return (row.kind, row.retry);
    }
    match http_status {
        401 | 403 => (Denied, Final),
        // Without a code, a 404 speaks of the path rather than of the key.
        404 if !code.is_empty() => (Gone, Final),
        429 => (Throttled, Backoff),
        400..=499 => (Other, Final),
        500..=599 => (Internal, Backoff),
        _ => (Other, Final),
    }
}

/// The table spells codes with and without dot, in upper and lower case; so may the service.
fn row_of(code: &str) -> Option<&'static Row> {
    let folded: String = code.chars().filter(|c| *c != '.').map(|c| c.to_ascii_lowercase()).collect();
    let digits = folded.strip_prefix("kms").filter(|digits| digits.len() == 4)?;
    let number: u16 = digits.parse().ok()?;
    TABLE.binary_search_by_key(&number, |row| row.number).ok().map(|at| &TABLE[at])
}

/// One code of the service. Status and message are its own; kind and retry are what this project makes of them.
struct Row {
    number: u16,
    // Kept for the comparison with the provider's table; the service's answers carry their own.
    #[cfg_attr(not(test), expect(dead_code))]
    http_status: u16,
    kind: RefusalKind,
    retry: Retry,
    #[cfg_attr(not(test), expect(dead_code))]
    message: &'static str,
}

const fn row(number: u16, http_status: u16, kind: RefusalKind, retry: Retry, message: &'static str) -> Row {
    Row { number, http_status, kind, retry, message }
}

/// Ordered by number. Doubtful readings:
/// - 0203 covers a key that awaits deletion and one that awaits import; the first is what happens to files.
/// - 0239, 0504 and 0513 are failures to decrypt *this* blob; asking again changes nothing, nor does it for 0514.
/// - 0304 means "unknown, pending, or version unknown"; it never answers a call of this client.
/// - 0405 is a permission taken away (or a wrong path, which the vectors rule out).
#[rustfmt::skip]
static TABLE: [Row; 139] = [
    row(101, 400, BadRequest, Final, "参数缺失"),
    row(102, 400, BadRequest, Final, "CmkUuid cannot be empty"),
    row(103, 400, BadRequest, Final, "AliasName cannot be empty"),
    row(104, 400, BadRequest, Final, "Digest cannot be empty"),
    row(105, 400, BadRequest, Final, "KeyVersionId cannot be empty"),
    row(106, 400, BadRequest, Final, "Sign algorithm cannot be empty"),
    row(107, 400, BadRequest, Final, "Plaintext can notbe empty"),
    row(108, 400, BadRequest, Final, "Ciphertextblob cannot be empty"),
    row(109, 400, BadRequest, Final, "Reencrypt cmkuuid cannot be empty"),
    row(110, 400, BadRequest, Final, "Asymmetric encrypt need sourceuuid"),
    row(111, 400, BadRequest, Final, "Asymmetric encrypt need sourceKeyVersion"),
    row(112, 400, BadRequest, Final, "DestinationUuid cannot be empty"),
    row(113, 400, BadRequest, Final, "Protectionlevel cannot be empty"),
    row(114, 400, BadRequest, Final, "Algorithm cannot be empty"),
    row(115, 400, BadRequest, Final, "Regionid cannot be empty"),
    row(116, 400, BadRequest, Final, "Enableautoatocrotatiom cannot be empty"),
    row(117, 400, BadRequest, Final, "Keyusage can not be empty"),
    row(118, 400, BadRequest, Final, "Rotationinterval cannot be empty"),
    row(119, 400, BadRequest, Final, "Nextrotationdate is empty"),
    row(120, 400, BadRequest, Final, "Algorithm for import cannot be empty"),
    row(121, 400, BadRequest, Final, "KeySpec for publickey cannot be empty"),
    row(122, 400, BadRequest, Final, "Pendingwindowindays cannot be empty"),
    row(123, 400, BadRequest, Final, "Token cannot be empty"),
    row(124, 400, BadRequest, Final, "Encryptenkeymeterial cannot be empty"),
    row(125, 400, BadRequest, Final, "Sign value cannot be empty"),
    row(126, 400, BadRequest, Final, "Keyspec cannot be empty"),
    row(127, 400, BadRequest, Final, "Userid cannot be empty"),
    row(128, 400, BadRequest, Final, "Request JSON format is illegal"),
    row(129, 400, BadRequest, Final, "The request message is too long"),
    row(130, 400, BadRequest, Final, "The page size is too large"),
    row(131, 400, BadRequest, Final, "The public blob can not be empty"),
    row(132, 400, BadRequest, Final, "AliasName is too long"),
    row(133, 400, BadRequest, Final, "AliasName is not legal"),
    row(134, 400, BadRequest, Final, "Wrappingalgorithm cannot be empty"),
    row(135, 400, BadRequest, Final, "Product cannot be empty"),
    row(136, 400, BadRequest, Final, "Product is not exist"),
    row(137, 400, BadRequest, Final, "Messagetype is wrong"),
    row(138, 400, BadRequest, Final, "The certificate id is wrong"),
    row(139, 400, BadRequest, Final, "Certificate does not match certificate chain"),
    row(140, 400, BadRequest, Final, "Certificate format error"),
    row(141, 400, BadRequest, Final, "Certificate algorithm not supported"),
    row(142, 400, BadRequest, Final, "The privatekey of the certificate cannot be exported"),
    row(143, 400, BadRequest, Final, "The cert is not availible"),
    row(144, 400, BadRequest, Final, "The formate of cert export is wrong"),
    row(201, 400, BadRequest, Final, "Alias already exists"),
    row(202, 400, BadRequest, Final, "The default CMK cannot create an alias"),
    row(203, 400, PendingDeletion, Final, "The selection CMK is not available"),
    row(204, 400, BadRequest, Final, "The selected CMK is not available for signature and verification"),
    row(205, 400, BadRequest, Final, "The selected CMK is not available for encryption and decryption"),
    row(206, 400, Disabled, Final, "The CMK is disabled"),
    row(207, 400, BadRequest, Final, "The CMK cannot be enabled"),
    row(208, 400, PendingDeletion, Final, "The Cmk has deletion task"),
    row(209, 400, BadRequest, Final, "The CMK has no deletion task"),
    row(210, 400, BadRequest, Final, "The CMK cannot be imported"),
    row(211, 400, BadRequest, Final, "The CMK does not support automatic rotation"),
    row(212, 400, BadRequest, Final, "The selection algorithm is not supported"),
    row(213, 400, BadRequest, Final, "The CMK is not a symmetric key"),
    row(214, 400, BadRequest, Final, "The CMK is not a asymmetric key"),
    row(215, 400, BadRequest, Final, "Wrong algorithm format"),
    row(216, 400, BadRequest, Final, "Wrong keyusage type"),
    row(217, 400, BadRequest, Final, "Wrong input of parameter format! Please enter true / false"),
    row(218, 400, BadRequest, Final, "Wrong protectionlevel"),
    row(219, 400, WrongCiphertext, Final, "Wrong ciphertext"),
    row(220, 400, BadRequest, Final, "Key length input error,this algorithm only supports AES_256"),
    row(221, 400, BadRequest, Final, "Key length input error,this algorithm only supports SM4_128"),
    row(222, 400, BadRequest, Final, "Key length input error,this algorithm only supports RSA_2048"),
    row(223, 400, BadRequest, Final, "This algorithm only supports AES/SM4"),
    row(224, 400, BadRequest, Final, "Wrong rotationlevel format"),
    row(225, 400, BadRequest, Final, "Asymmetric CMK cannot be imported"),
    row(226, 400, BadRequest, Final, "Wrong pendingwindowindays format"),
    row(227, 400, BadRequest, Final, "Unsupported keyspec"),
    row(228, 400, Other, Final, "The number of the CMK rotation of the user has reached the upper limit"),
    row(229, 400, Other, Final, "Failed to execute key rotation. The key has been rotated within 7 days!"),
    row(230, 400, Disabled, Final, "The current CMK is in the state of pause rotation. Please enable the master key or cancel the plan deletion before operation!"),
    row(231, 400, BadRequest, Final, "PageSize exceeds threshold"),
    row(232, 400, BadRequest, Final, "Symmetric key can not use to sign or verify"),
    row(233, 400, BadRequest, Final, "This key cannot operation alias"),
    row(234, 400, BadRequest, Final, "Default key cannot delete alias"),
    row(235, 400, BadRequest, Final, "WRONG time format"),
    row(236, 400, BadRequest, Final, "Wrong algorithm for import"),
    row(237, 400, BadRequest, Final, "Wrong keyspec for import"),
    row(238, 400, BadRequest, Final, "The number of asymmetric keys in a region cannot be greater than 50"),
    row(239, 400, WrongCiphertext, Final, "Key decryption failed"),
    row(240, 400, BadRequest, Final, "Cmkuuid is not legal"),
    row(241, 400, BadRequest, Final, "Cmk length is wrong"),
    row(242, 400, BadRequest, Final, "Origin type wrong"),
    row(243, 400, BadRequest, Final, "The default CMK cannot update an alias"),
    row(244, 400, BadRequest, Final, "The destinationKeyId is not a symmetric key"),
    row(245, 400, BadRequest, Final, "The Meterial for import is already exist"),
    row(246, 400, Disabled, Final, "destinationKeyId cannot use"),
    row(247, 400, WrongCiphertext, Final, "Data key ciphertext wrong"),
    row(248, 400, BadRequest, Final, "The cmk already has a meterial"),
    row(249, 400, BadRequest, Final, "The length of plaintext exceeds the limit"),
    row(250, 400, BadRequest, Final, "Asymmetric CMK cannot create datakey"),
    row(251, 400, BadRequest, Final, "Only support RSA cmk"),
    row(252, 400, BadRequest, Final, "Plaintext need to be base64"),
    row(253, 400, BadRequest, Final, "KeySpec cannot be empty"),
    row(254, 400, BadRequest, Final, "Subject cannot be empty"),
    row(255, 400, BadRequest, Final, "certificateId cannot be empty"),
    row(256, 400, BadRequest, Final, "status cannot be empty"),
    row(257, 400, BadRequest, Final, "the certificate has not been imported"),
    row(258, 400, BadRequest, Final, "the certificate has been active"),
    row(259, 400, BadRequest, Final, "the certificate has been revoked"),
    row(260, 400, BadRequest, Final, "the certificate has been inactive"),
    row(301, 404, Gone, Final, "The CMK does not exist or has been deleted"),
    row(302, 404, Gone, Final, "The target CMK does not exist"),
    row(303, 404, Gone, Final, "The target alias does not exist"),
    row(304, 404, Gone, Final, "The target CMK does not exist or in illegal status"),
    row(305, 404, Gone, Final, "The destination cmk does not exist or has been deleted"),
    row(306, 404, Disabled, Final, "The cmk is not enable"),
    row(307, 404, Gone, Final, "DestinationKeyId do not exist"),
    row(308, 404, Gone, Final, "The soucekeyid CMK does not exist"),
    row(309, 404, Gone, Final, "The certificate does not exist or has been deleted"),
    row(310, 404, Gone, Final, "The certificate hsa been deleted"),
    row(401, 401, Denied, Final, "Token validation failed"),
    row(402, 401, Denied, Final, "Sign wrong"),
    row(403, 401, ClockSkew, FreshDate, "Time format wrong"),
    row(404, 401, ClockSkew, FreshDate, "Out of time"),
    row(405, 401, Denied, Final, "You cannot visit the url"),
    row(406, 401, Denied, Final, "User is freeze"),
    row(407, 401, Throttled, Backoff, "Interface counter exceeded"),
    row(501, 500, Other, Backoff, "There are no rotation tasks to be performed"),
    row(502, 500, Internal, Backoff, "Failed to delete alias"),
    row(503, 500, Internal, Backoff, "Key initialization failed"),
    row(504, 500, WrongCiphertext, Final, "Key decryption failed"),
    row(505, 500, Internal, Backoff, "HSM failed to create user key"),
    row(506, 500, Internal, Backoff, "Failed to create delay delete task"),
    row(507, 500, Internal, Backoff, "Failed to send MQ for rotation task"),
    row(508, 500, Internal, Backoff, "Delay delete task sending MQ failed"),
    row(509, 500, Internal, Backoff, "Failed to send MQ for delete key material task"),
    row(510, 500, Internal, Backoff, "Failed to create default CMK"),
    row(511, 500, Internal, Backoff, "Failed to get random key"),
    row(512, 500, Internal, Backoff, "Failed to create data key"),
    row(513, 500, WrongCiphertext, Final, "Data key decryption failed"),
    row(514, 500, Internal, Final, "CMK encryption failed"),
    row(515, 500, Internal, Backoff, "Failed to create CMK"),
    row(516, 500, Internal, Backoff, "Key rotation failed!"),
    row(517, 500, Internal, Backoff, "Failed to execute key rotation policy"),
    row(518, 500, Internal, Backoff, "Failed to update key description"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, status: u16) -> KmsError {
        Refusal::new("decrypt", code.into(), "The CMK is disabled".into(), Some("r-1".into()), status).into()
    }

    #[test]
    fn the_table_is_the_providers() {
        let page = include_str!("../../tests/data/kms/error-table.tsv");
        let mut seen = 0;
        for line in page.lines().skip(1) {
            let mut columns = line.split('\t');
            let (Some(status), Some(code), Some(message)) = (columns.next(), columns.next(), columns.next()) else {
                panic!("bad line {line:?}");
            };
            if code == "0" {
                continue;
            }
            let row = row_of(code).unwrap_or_else(|| panic!("{code} is missing"));
            assert_eq!((row.http_status.to_string().as_str(), row.message), (status, message), "{code}");
            seen += 1;
        }
        assert_eq!(seen, TABLE.len());
        assert!(TABLE.is_sorted_by_key(|row| row.number));
    }

    #[test]
    fn codes_match_without_dot_and_case() {
        for code in ["kms.0407", "KMS.0407", "KMS0407", "kms0407"] {
            assert!(refused(code, 401).is_throttled(), "{code}");
        }
        assert_eq!(refused("kms.0407", 401).code(), Some("kms.0407"));
    }

    #[test]
    fn meanings_that_the_file_system_relies_on() {
        for code in ["KMS.0206", "KMS.0203", "KMS.0405", "KMS.0406", "KMS.0401", "KMS.0402"] {
            let error = refused(code, 400);
            assert!(error.is_denied() && !error.is_gone() && !error.is_unreachable() && !error.is_outage(), "{code}");
        }
        assert!(refused("KMS.0301", 404).is_gone());
        assert!(refused("KMS.0219", 400).is_wrong_ciphertext());
        assert!(refused("KMS.0513", 500).is_wrong_ciphertext());
        assert!(refused("KMS.0512", 500).is_outage());
        assert!(refused("KMS.0404", 401).is_clock_skew());
        assert!(!refused("KMS.0512", 500).is_unreachable());
    }

    #[test]
    fn unknown_codes_fall_back_to_their_http_class() {
        assert_eq!(refused("KMS.0777", 403).kind(), Some(RefusalKind::Denied));
        assert_eq!(refused("KMS.0777", 404).kind(), Some(RefusalKind::Gone));
        assert_eq!(refused("", 404).kind(), Some(RefusalKind::Other));
        assert_eq!(refused("KMS.0777", 429).kind(), Some(RefusalKind::Throttled));
        assert_eq!(refused("KMS.0777", 500).kind(), Some(RefusalKind::Internal));
        assert_eq!(refused("CTAPI_10001", 418).kind(), Some(RefusalKind::Other));
    }

    #[test]
    fn text_has_code_and_request_and_escapes_the_services_words() {
        let error: KmsError =
            Refusal::new("decrypt", "KMS.0206".into(), "no\n\u{1b}[31m".into(), Some("r-1".into()), 400).into();
        let text = error.to_string();
        assert!(text.contains("KMS.0206") && text.contains("r-1"), "{text}");
        assert!(!text.contains('\n') && !text.contains('\u{1b}'), "{text}");
        let long: KmsError = Refusal::new("decrypt", String::new(), "x".repeat(10_000), None, 400).into();
        assert!(long.to_string().len() < 400);
    }
}
