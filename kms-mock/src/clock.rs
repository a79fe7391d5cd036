//! The clock of the mock, which tests can move, and the three date forms of the protocol.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01T00:00:00Z.
pub type Timestamp = i64;

/// China Standard Time, the zone of both date headers, is UTC+8 all year.
pub const BEIJING_OFFSET: i64 = 8 * 3600;

/// 9999-12-31T23:59:59Z: later moments have no four-digit year.
const LATEST: Timestamp = 253_402_300_799;

/// The machine's clock plus an offset.
#[derive(Debug, Default)]
pub struct Clock {
    offset: AtomicI64,
}

impl Clock {
    pub fn now(&self) -> Timestamp {
        machine_now().saturating_add(self.offset.load(Ordering::Relaxed)).clamp(0, LATEST)
    }

    pub fn advance(&self, by: Duration) {
        self.shift(i64::try_from(by.as_secs()).unwrap_or(LATEST));
    }

    /// Moves the clock by `seconds`, which may be negative.
    pub fn shift(&self, seconds: i64) {
        let moved = self.offset.load(Ordering::Relaxed).saturating_add(seconds);
        self.offset.store(moved.clamp(-LATEST, LATEST), Ordering::Relaxed);
    }

    /// Sets the clock; it keeps running from there.
    pub fn set(&self, now: Timestamp) {
        self.offset.store(now.clamp(0, LATEST) - machine_now(), Ordering::Relaxed);
    }

    /// Back to the machine's time.
    pub fn reset(&self) {
        self.offset.store(0, Ordering::Relaxed);
    }
}

fn machine_now() -> Timestamp {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(LATEST),
        Err(_) => 0,
    }
}

/// `YYYY-MM-DDTHH:MM:SSZ`, the form of dates in answers.
pub fn to_iso(at: Timestamp) -> String {
    let (days, second) = (at.div_euclid(86_400), at.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// The inverse of [`to_iso`].
pub fn parse_iso(text: &str) -> Option<Timestamp> {
    let b = text.as_bytes();
    let shape = b.len() == 20 && b[4] == b'-' && b[7] == b'-' && b[10] == b'T' && b[13] == b':' && b[16] == b':';
    if !shape || b[19] != b'Z' {
        return None;
    }
    let date = days_from_civil(digits(&b[0..4])?, digits(&b[5..7])?, digits(&b[8..10])?)?;
    Some(date * 86_400 + second_of_day(digits(&b[11..13])?, digits(&b[14..16])?, digits(&b[17..19])?)?)
}

/// Profile N: `EEE, dd MMM yyyy HH:mm:ss zzz`, for example `Wed, 16 Jul 2025 15:47:53 CST`. `CST` is China Standard Time here,
/// not the American one. The day of the week must fit the date.
pub fn parse_request_date(text: &str) -> Option<Timestamp> {
    let words: Vec<&str> = text.split(' ').collect();
    let [weekday, day, month, year, time, zone] = words[..] else { return None };
    if day.len() != 2 || year.len() != 4 || time.len() != 8 {
        return None;
    }
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let days = days_from_civil(digits(year.as_bytes())?, month, digits(day.as_bytes())?)?;
    // 1970-01-01 was a Thursday, the fourth name of the list.
    if weekday.strip_suffix(',')? != WEEKDAYS[(days + 3).rem_euclid(7) as usize] {
        return None;
    }
    let t = time.as_bytes();
    if t[2] != b':' || t[5] != b':' {
        return None;
    }
    let second = second_of_day(digits(&t[0..2])?, digits(&t[3..5])?, digits(&t[6..8])?)?;
    Some(days * 86_400 + second - zone_offset(zone)?)
}

/// Profile E: `yyyyMMdd'T'HHmmss'Z'`, read as if it were UTC; the caller subtracts [`BEIJING_OFFSET`] for the usual reading.
pub fn parse_eop_date(text: &str) -> Option<Timestamp> {
    let b = text.as_bytes();
    if b.len() != 16 || b[8] != b'T' || b[15] != b'Z' {
        return None;
    }
    let days = days_from_civil(digits(&b[0..4])?, digits(&b[4..6])?, digits(&b[6..8])?)?;
    Some(days * 86_400 + second_of_day(digits(&b[9..11])?, digits(&b[11..13])?, digits(&b[13..15])?)?)
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn zone_offset(zone: &str) -> Option<i64> {
    match zone {
        "CST" => return Some(BEIJING_OFFSET),
        "GMT" | "UTC" | "Z" => return Some(0),
        _ => {}
    }
    let (sign, rest) = match zone.as_bytes() {
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [_, _, _, _] => (digits(&rest[..2])?, digits(&rest[2..])?),
        [_, _, b':', _, _] => (digits(&rest[..2])?, digits(&rest[3..])?),
        _ => return None,
    };
    (hours <= 14 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn second_of_day(hour: i64, minute: i64, second: i64) -> Option<i64> {
    (hour < 24 && minute < 60 && second < 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, or `None` if there is no such date.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    // Years are counted from March, so that the leap day is the last of a year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let day_of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2025-07-16T15:47:53 in Beijing.
    const EXAMPLE: Timestamp = 1_752_652_073;

    #[test]
    fn request_dates_in_every_accepted_zone() {
        for text in [
            "Wed, 16 Jul 2025 15:47:53 CST",
            "Wed, 16 Jul 2025 07:47:53 GMT",
            "Wed, 16 Jul 2025 07:47:53 UTC",
            "Wed, 16 Jul 2025 07:47:53 Z",
            "Wed, 16 Jul 2025 15:47:53 +0800",
            "Wed, 16 Jul 2025 15:47:53 +08:00",
            "Wed, 16 Jul 2025 02:47:53 -0500",
        ] {
            assert_eq!(parse_request_date(text), Some(EXAMPLE), "{text}");
        }
    }

    #[test]
    fn what_is_no_request_date() {
        for text in [
            "",
            "Wed, 16 Jul 2025 15:47:53",
            "Thu, 16 Jul 2025 15:47:53 CST",
            "Wed, 16 Juli 2025 15:47:53 CST",
            "Wed, 31 Feb 2025 15:47:53 CST",
            "Wed, 16 Jul 2025 24:47:53 CST",
            "Wed, 16 Jul 2025 15:47:53 PST",
            "Wed, 16 Jul 2025 15-47-53 CST",
            "Wed, 16 Jul 2025 1é:47:53 CST",
            "2025-07-16T07:47:53Z",
        ] {
            assert_eq!(parse_request_date(text), None, "{text}");
        }
    }

    #[test]
    fn eop_dates() {
        assert_eq!(parse_eop_date("20250716T154753Z"), Some(EXAMPLE + BEIJING_OFFSET));
        for text in ["20250716T154753", "20250716 154753Z", "20251316T154753Z", "2025071xT154753Z", ""] {
            assert_eq!(parse_eop_date(text), None, "{text}");
        }
    }

    #[test]
    fn iso_round_trips_over_leap_years() {
        assert_eq!(to_iso(EXAMPLE), "2025-07-16T07:47:53Z");
        for at in (0..LATEST).step_by(86_400 * 13 + 12_345) {
            assert_eq!(parse_iso(&to_iso(at)), Some(at));
        }
        assert_eq!(parse_iso("2023-02-29T00:00:00Z"), None);
        assert_eq!(parse_iso("2024-02-29T00:00:00Z"), Some(1_709_164_800));
    }

    #[test]
    fn the_clock_moves_and_runs_on() {
        let clock = Clock::default();
        let before = clock.now();
        clock.advance(Duration::from_secs(1000));
        assert!((1000..1005).contains(&(clock.now() - before)));
        clock.set(EXAMPLE);
        assert!((0..5).contains(&(clock.now() - EXAMPLE)));
        clock.shift(i64::MAX);
        assert_eq!(clock.now(), LATEST);
        clock.reset();
        assert!((0..5).contains(&(clock.now() - before)));
    }
}
