//! A stand-in for the CTyun KMS.
