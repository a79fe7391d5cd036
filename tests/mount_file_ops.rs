//! Reading, writing and shaping files on a real mount.

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use common::io::*;
use common::{ALL, Mounted, SUITES, Setup, Suite};

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
/// Sizes around every edge of the format: blocks, the head page, groups.
const SIZES: [usize; 15] = [
    0,
    1,
    15,
    4095,
    4096,
    4097,
    8192,
    30 * 4096 - 1,
    30 * 4096,
    30 * 4096 + 1,
    64 * 4096,
    64 * 4096 + 1,
    128 * 4096 - 1,
    1 << 20,
    (3 << 20) + 77,
];

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(&ALL, bodies![what_was_written_is_read, unlinked_files_live_until_closed])
        .on(&[common::SM4], bodies![slow_engines_share_large_requests])
        .on(
            &SUITES,
            bodies![
                appends_go_to_the_end,
                times_are_kept_over_a_close,
                times_of_an_open_file_are_the_last_that_were_set,
                opening_can_truncate,
                truncation_down_and_up,
                holes_read_as_zeros,
                fallocate_grows_or_not,
                punched_holes_read_as_zeros,
                zeroed_ranges_read_as_zeros,
                data_and_holes_are_found,
                data_is_found_before_it_is_written_back,
                ranges_are_copied,
                direct_io,
                shared_mappings,
                private_mappings,
                two_handles_see_each_other,
                rights_of_a_handle,
                big_offsets,
                times_follow_writes,
                fsync_reaches_the_backing,
                many_writers_of_one_file,
            ],
        )
        .run()
}

fn what_was_written_is_read(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for (i, len) in SIZES.into_iter().enumerate() {
        fs::write(m.path(format!("{len}")), pattern(i as u64, len)).unwrap();
        // Written in odd pieces too.
        let mut file = File::create(m.path(format!("{len} in pieces"))).unwrap();
        for piece in pattern(i as u64, len).chunks(7001) {
            file.write_all(piece).unwrap();
        }
    }
    for round in 0..2 {
        for (i, len) in SIZES.into_iter().enumerate() {
            for name in [format!("{len}"), format!("{len} in pieces")] {
                assert!(fs::read(m.path(&name)).unwrap() == pattern(i as u64, len), "{name}, round {round}");
                assert_eq!(fs::metadata(m.path(&name)).unwrap().len(), len as u64);
            }
        }
        m.remount();
    }
}

/// Requests that take long are computed in parts, on whatever cores are idle: the same bytes, and the same stored format.
fn slow_engines_share_large_requests(setup: &Setup) {
    let mut m = Mounted::unmounted(setup, "");
    let slow = vec![("KMSFS_SM4_KERNEL", "bitsliced")];
    for (first, second) in [(slow.clone(), vec![]), (vec![], slow)] {
        m.environment = first;
        m.mount();
        // Single streams and several at a time; the last ends inside a block.
        std::thread::scope(|scope| {
            for i in 0..3u64 {
                let path = m.path(format!("file-{i}"));
                scope.spawn(move || fs::write(path, pattern(i, 5_000_000)).unwrap());
            }
        });
        let file = open_rw(&m.path("file-0"));
        file.write_all_at(&pattern(7, 2_000_000), 1_000_001).unwrap();
        file.sync_all().unwrap();
        drop(file);
        m.unmount();
        m.environment = second;
        m.mount();
        let mut expected = pattern(0, 5_000_000);
        expected[1_000_001..3_000_001].copy_from_slice(&pattern(7, 2_000_000));
        assert!(fs::read(m.path("file-0")).unwrap() == expected);
        for i in 1..3u64 {
            assert!(fs::read(m.path(format!("file-{i}"))).unwrap() == pattern(i, 5_000_000));
        }
        m.unmount();
    }
}

fn unlinked_files_live_until_closed(setup: &Setup) {
    let m = Mounted::new(setup);
    let data = pattern(1, 300_000);
    fs::write(m.path("file"), &data).unwrap();
    let file = open_rw(&m.path("file"));
    fs::remove_file(m.path("file")).unwrap();
    drop_cache(&file);
    assert!(read_all(&file) == data);
    file.write_all_at(b"still here", 299_000).unwrap();
    file.set_len(299_010).unwrap();
    drop_cache(&file);
    assert_eq!(&read_all(&file)[299_000..], b"still here");
    fs::write(m.path("file"), b"another").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    assert_eq!(fs::read(m.path("file")).unwrap(), b"another");
    // Made and removed before the first byte.
    let mut early = File::create_new(m.path("early")).unwrap();
    fs::remove_file(m.path("early")).unwrap();
    early.write_all(&data).unwrap();
    early.sync_all().unwrap();
    assert_eq!(early.metadata().unwrap().len(), data.len() as u64);
}

fn appends_go_to_the_end(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("log");
    let mut wanted = Vec::new();
    for i in 0..300u64 {
        let piece = pattern(i, 1 + (i as usize * 37) % 900);
        let mut file = File::options().append(true).create(true).open(&path).unwrap();
        // The position is of no account.
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&piece).unwrap();
        wanted.extend_from_slice(&piece);
    }
    assert!(fs::read(&path).unwrap() == wanted);
    m.remount();
    assert!(fs::read(&path).unwrap() == wanted);
    // Two at once: each record whole, none lost.
    std::thread::scope(|scope| {
        for id in [b'a', b'b'] {
            let path = &path;
            scope.spawn(move || {
                let mut file = File::options().append(true).open(path).unwrap();
                (0..500).for_each(|_| file.write_all(&[id; 10]).unwrap());
            });
        }
    });
    m.remount();
    let all = fs::read(&path).unwrap();
    assert_eq!(all.len(), wanted.len() + 10_000);
    let mut counts = [0; 2];
    for record in all[wanted.len()..].chunks(10) {
        assert!(record.iter().all(|&b| b == record[0]), "{record:?}");
        counts[usize::from(record[0] == b'b')] += 1;
    }
    assert_eq!(counts, [500, 500]);
}

fn opening_can_truncate(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("file");
    fs::write(&path, pattern(1, 500_000)).unwrap();
    let held = open_rw(&path);
    drop(File::options().write(true).truncate(true).open(&path).unwrap());
    assert_eq!(held.metadata().unwrap().len(), 0);
    assert_eq!(held.read_at(&mut [0; 10], 0).unwrap(), 0);
    held.write_all_at(b"anew", 10).unwrap();
    drop(held);
    m.remount();
    assert_eq!(fs::read(&path).unwrap(), b"\0\0\0\0\0\0\0\0\0\0anew");
}

fn truncation_down_and_up(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("file");
    let data = pattern(5, 2 << 20);
    let sizes = [1 << 20, 30 * 4096 + 1, 30 * 4096, 70_000, 69_999, 4097, 4096, 4095, 1, 0];
    for (i, &down) in sizes.iter().enumerate() {
        fs::write(&path, &data).unwrap();
        let file = open_rw(&path);
        file.set_len(down as u64).unwrap();
        assert!(read_all(&file) == data[..down], "{down}");
        let up = down + 100_001;
        file.set_len(up as u64).unwrap();
        let mut wanted = data[..down].to_vec();
        wanted.resize(up, 0);
        assert!(read_all(&file) == wanted, "{down} up");
        drop_cache(&file);
        assert!(read_all(&file) == wanted, "{down} up, read again");
        drop(file);
        if i % 3 == 0 {
            m.remount();
        }
        assert!(fs::read(&path).unwrap() == wanted, "{down} up, later");
    }
    // By path, with nobody having it open, and up from nothing.
    truncate(&path, 5000);
    truncate(&path, 10);
    assert_eq!(fs::read(&path).unwrap(), [0; 10]);
    File::create(m.path("grown")).unwrap().set_len(123_456).unwrap();
    m.remount();
    assert!(fs::read(m.path("grown")).unwrap() == vec![0; 123_456]);
}

fn holes_read_as_zeros(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("sparse");
    let file = open_rw(&path);
    for i in 0..20u64 {
        file.write_all_at(&pattern(i, 5000), i * 10_000_019).unwrap();
    }
    let check = |file: &File| {
        for i in 0..20u64 {
            let mut buf = vec![0; 5000 + 20_000];
            let n = file.read_at(&mut buf, i * 10_000_019).unwrap();
            assert!(buf[..5000] == pattern(i, 5000));
            assert!(buf[5000..n].iter().all(|&b| b == 0));
        }
    };
    check(&file);
    drop_cache(&file);
    check(&file);
    let blocks = file.metadata().unwrap().blocks();
    assert!(blocks * 512 < 10_000_000, "{blocks} blocks for 100 KB");
    drop(file);
    m.remount();
    check(&open_rw(&path));
}

/// `fallocate` with mode 0 makes a file longer, and with KEEP_SIZE alone it does nothing.
fn fallocate_grows_or_not(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let file = open_rw(&m.path("file"));
    fallocate(&file, 0, 0, 10_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_000);
    file.write_all_at(b"data", 5000).unwrap();
    fallocate(&file, 0, 0, 100).unwrap();
    fallocate(&file, libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_000);
    fallocate(&file, 0, 9000, 200_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 209_000);
    assert_eq!(errno(fallocate(&file, 0, 0, 0)), libc::EINVAL);
    assert_eq!(errno(fallocate(&file, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    drop(file);
    m.remount();
    let data = fs::read(m.path("file")).unwrap();
    assert_eq!(data.len(), 209_000);
    assert_eq!(&data[5000..5004], b"data");
    assert!(data[5004..].iter().chain(&data[..5000]).all(|&b| b == 0));
}

/// PUNCH_HOLE makes holes of whole blocks of 4096 bytes, and zeros of the rest.
fn punched_holes_read_as_zeros(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let len = 1_500_000;
    for (i, (off, n)) in
        [(0, 1), (0, 4096), (1, 4095), (4000, 5000), (100_000, 1_000_000), (1_499_000, 5000), (122_880, 262_144)]
            .into_iter()
            .enumerate()
    {
        let path = m.path(format!("{i}"));
        let mut wanted = pattern(i as u64, len);
        fs::write(&path, &wanted).unwrap();
        let file = open_rw(&path);
        fallocate(&file, PUNCH, off, n).unwrap();
        let end = len.min((off + n) as usize);
        wanted[off as usize..end].fill(0);
        assert!(read_all(&file) == wanted, "{off} {n}");
        // Whole blocks are holes.
        if let (first, true) = (off.next_multiple_of(4096), off.next_multiple_of(4096) + 4096 <= off + n) {
            assert_eq!(seek_hole(&file, first).unwrap(), first, "{off} {n}");
        }
        // Into the hole, and over its edge.
        file.write_all_at(b"inside", off + n / 2).unwrap();
        let at = (off + n / 2) as usize;
        if wanted.len() < at + 6 {
            wanted.resize(at + 6, 0);
        }
        wanted[at..at + 6].copy_from_slice(b"inside");
        drop_cache(&file);
        assert!(read_all(&file) == wanted, "{off} {n} and written into");
        drop(file);
        m.remount();
        assert!(fs::read(&path).unwrap() == wanted, "{off} {n} later");
    }
}

/// ZERO_RANGE does what PUNCH_HOLE does, and makes the file longer unless KEEP_SIZE is given.
fn zeroed_ranges_read_as_zeros(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let mut wanted = pattern(8, 200_000);
    fs::write(m.path("file"), &wanted).unwrap();
    let file = open_rw(&m.path("file"));
    fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 5000, 50_000).unwrap();
    wanted[5000..55_000].fill(0);
    assert!(read_all(&file) == wanted);
    assert_eq!((seek_hole(&file, 0).unwrap(), seek_data(&file, 8192).unwrap()), (8192, 53_248));
    fallocate(&file, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, 190_000, 50_000).unwrap();
    wanted[190_000..].fill(0);
    assert!(read_all(&file) == wanted);
    fallocate(&file, libc::FALLOC_FL_ZERO_RANGE, 199_000, 50_000).unwrap();
    wanted.resize(249_000, 0);
    drop_cache(&file);
    assert!(read_all(&file) == wanted);
    drop(file);
    m.remount();
    assert!(fs::read(m.path("file")).unwrap() == wanted);
}

/// The extents of data, by SEEK_DATA and SEEK_HOLE.
fn extents(file: &File) -> Vec<(u64, u64)> {
    let (mut at, mut out) = (0, Vec::new());
    loop {
        let start = match seek_data(file, at) {
            Ok(start) => start,
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return out,
            Err(e) => panic!("SEEK_DATA: {e}"),
        };
        let end = seek_hole(file, start).unwrap();
        assert!(start >= at && end > start, "{at} {start} {end}");
        out.push((start, end));
        at = end;
    }
}

/// Every byte that is not zero lies in an extent.
fn assert_extents_cover(file: &File) {
    let (data, extents) = (read_all(file), extents(file));
    let mut from = 0;
    for (start, end) in extents.iter().copied().chain([(data.len() as u64, 0)]) {
        assert!(data[from as usize..start as usize].iter().all(|&b| b == 0), "data in a hole: {extents:?}");
        from = end;
    }
}

/// SEEK_DATA and SEEK_HOLE are exact to the block.
fn data_and_holes_are_found(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("file");
    let file = open_rw(&path);
    file.write_all_at(&pattern(1, 8192), 1 << 20).unwrap();
    file.write_all_at(&pattern(2, 100), 3 << 20).unwrap();
    file.set_len(4 << 20).unwrap();
    let check = |file: &File| {
        assert_extents_cover(file);
        let found = extents(file);
        assert_eq!(found, [(1 << 20, (1 << 20) + 8192), (3 << 20, (3 << 20) + 4096)]);
        assert_eq!(errno(seek_data(file, 4 << 20)), libc::ENXIO);
        assert_eq!(errno(seek_hole(file, 4 << 20)), libc::ENXIO);
        assert_eq!(seek_hole(file, (4 << 20) - 1).unwrap(), (4 << 20) - 1);
    };
    check(&file);
    file.sync_all().unwrap();
    check(&file);
    drop(file);
    m.remount();
    let file = open_rw(&path);
    check(&file);
    fallocate(&file, PUNCH, 1 << 20, 8192).unwrap();
    let found = extents(&file);
    assert!(found.iter().all(|&(start, _)| start >= 3 << 20), "{found:?}");
    assert_extents_cover(&file);
    // A full file is one extent, with the hole at its end.
    fs::write(m.path("full"), pattern(3, 100_000)).unwrap();
    let full = open_rw(&m.path("full"));
    assert_eq!(extents(&full), [(0, 100_000)]);
    assert_eq!(seek_hole(&full, 5).unwrap(), 100_000);
}

/// SEEK_DATA finds what was written and not written back yet.
fn data_is_found_before_it_is_written_back(setup: &Setup) {
    // What only the kernel's cache has is data too.
    let m = Mounted::new(setup);
    for i in 0..50u64 {
        let file = open_rw(&m.path(format!("{i}")));
        file.set_len(10 << 20).unwrap();
        let at = i * 199_999;
        file.write_all_at(b"fresh", at).unwrap();
        assert_eq!(seek_data(&file, 0).unwrap() / 4096, at / 4096, "written through this handle");
        let other = File::open(m.path(format!("{i}"))).unwrap();
        assert_eq!(seek_data(&other, 0).unwrap() / 4096, at / 4096, "written through another handle");
        assert_extents_cover(&file);
    }
    // By a mapping that is still there.
    let file = open_rw(&m.path("mapped"));
    file.set_len(1 << 20).unwrap();
    let mut map = Map::new(&file, 1 << 20, true).unwrap();
    map.write(700_000, b"mapped");
    assert_eq!(seek_data(&file, 0).unwrap() / 4096, 700_000 / 4096);
}

/// `copy_file_range` copies in the daemon, also inside one file, and runs of 1 MiB that are zero become holes.
fn ranges_are_copied(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let data = pattern(1, 3_000_000);
    let source = open_rw(&m.path("source"));
    source.write_all_at(&data, 0).unwrap();
    let target = open_rw(&m.path("target"));
    let mut done = 0;
    while done < data.len() {
        let n = copy_file_range(&source, done as u64, &target, done as u64, data.len() - done).unwrap();
        assert!(n > 0, "at {done}");
        done += n;
    }
    assert!(read_all(&target) == data);
    // At odd places, over what is not written back, and behind the end.
    target.write_all_at(&[7; 50_000], 1_000_000).unwrap();
    assert_eq!(copy_file_range(&source, 12_345, &target, 1_010_001, 20_000).unwrap(), 20_000);
    let mut wanted = data.clone();
    wanted[1_000_000..1_050_000].fill(7);
    wanted[1_010_001..1_030_001].copy_from_slice(&data[12_345..32_345]);
    assert!(read_all(&target) == wanted);
    assert_eq!(copy_file_range(&source, 2_999_990, &target, 3_500_000, 100).unwrap(), 10);
    wanted.resize(3_500_000, 0);
    wanted.extend_from_slice(&data[2_999_990..]);
    // Inside one file.
    assert_eq!(copy_file_range(&target, 0, &target, 2_000_000, 100_000).unwrap(), 100_000);
    let head = wanted[..100_000].to_vec();
    wanted[2_000_000..2_100_000].copy_from_slice(&head);
    assert_eq!(errno(copy_file_range(&target, 0, &target, 50, 100)), libc::EINVAL);
    assert!(read_all(&target) == wanted);
    // Holes stay holes.
    let sparse = open_rw(&m.path("sparse"));
    sparse.write_all_at(b"end", 20 << 20).unwrap();
    let copy = open_rw(&m.path("copy"));
    let mut done = 0;
    while done < (20 << 20) + 3 {
        done += copy_file_range(&sparse, done as u64, &copy, done as u64, (20 << 20) + 3 - done).unwrap();
    }
    assert!(copy.metadata().unwrap().blocks() * 512 < 2 << 20);
    drop((source, target, sparse, copy));
    m.remount();
    assert!(fs::read(m.path("target")).unwrap() == wanted);
    assert_eq!(&fs::read(m.path("copy")).unwrap()[20 << 20..], b"end");
}

fn direct_io(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("direct");
    let direct = File::options().read(true).write(true).create(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let layout = std::alloc::Layout::from_size_align(1 << 20, 4096).unwrap();
    // SAFETY: a layout that is not empty; the memory is freed below with the same layout.
    let at = unsafe { std::alloc::alloc_zeroed(layout) };
    assert!(!at.is_null());
    // SAFETY: the memory just allocated, used through this slice alone.
    let buf = unsafe { std::slice::from_raw_parts_mut(at, 1 << 20) };
    let data = pattern(1, 1 << 20);
    buf.copy_from_slice(&data);
    direct.write_all_at(buf, 0).unwrap();
    direct.write_all_at(&buf[..8192], 1 << 20).unwrap();
    buf.fill(0);
    direct.read_exact_at(buf, 0).unwrap();
    assert!(*buf == *data);
    // Beside a handle that goes through the cache.
    let cached = open_rw(&path);
    assert!(read_all(&cached)[..1 << 20] == data);
    cached.write_all_at(b"cached", 4096 * 5 + 3).unwrap();
    direct.read_exact_at(&mut buf[..4096], 4096 * 5).unwrap();
    assert_eq!(&buf[3..9], b"cached");
    buf[..4096].fill(9);
    direct.write_all_at(&buf[..4096], 4096 * 7).unwrap();
    let mut seen = [0; 4096];
    cached.read_exact_at(&mut seen, 4096 * 7).unwrap();
    assert_eq!(seen, [9; 4096]);
    // SAFETY: allocated with this layout; the slice is not used after.
    unsafe { std::alloc::dealloc(at, layout) };
    drop((direct, cached));
    m.remount();
    let all = fs::read(&path).unwrap();
    assert_eq!(all.len(), (1 << 20) + 8192);
    assert_eq!(&all[4096 * 5 + 3..4096 * 5 + 9], b"cached");
    assert!(all[1 << 20..] == data[..8192]);
}

fn shared_mappings(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("mapped");
    let mut wanted = pattern(1, 400_000);
    fs::write(&path, &wanted).unwrap();
    let file = open_rw(&path);
    let mut map = Map::new(&file, 400_000, true).unwrap();
    assert!(map.read(0, 400_000) == wanted);
    map.write(123_456, b"by the mapping");
    wanted[123_456..123_470].copy_from_slice(b"by the mapping");
    assert!(read_all(&file) == wanted);
    file.write_all_at(b"by write", 200_000).unwrap();
    wanted[200_000..200_008].copy_from_slice(b"by write");
    assert_eq!(map.read(200_000, 8), b"by write");
    map.sync();
    // Written after the last close of the descriptor: the mapping alone holds the file.
    drop(file);
    map.write(0, b"last");
    wanted[..4].copy_from_slice(b"last");
    drop(map);
    m.remount();
    assert!(fs::read(&path).unwrap() == wanted);
}

fn private_mappings(setup: &Setup) {
    let m = Mounted::new(setup);
    let path = m.path("mapped");
    let data = pattern(1, 100_000);
    fs::write(&path, &data).unwrap();
    let mut map = Map::new(&File::options().read(true).open(&path).unwrap(), 100_000, false).unwrap();
    map.write(50_000, b"mine alone");
    assert_eq!(map.read(50_000, 10), b"mine alone");
    assert!(map.read(60_000, 40_000) == data[60_000..]);
    drop(map);
    assert!(fs::read(&path).unwrap() == data);
    // A program on the mount is one.
    fs::copy("/bin/true", m.path("program")).unwrap();
    assert!(std::process::Command::new(m.path("program")).status().unwrap().success());
}

fn two_handles_see_each_other(setup: &Setup) {
    let m = Mounted::new(setup);
    let path = m.path("file");
    let (a, b) = (open_rw(&path), open_rw(&path));
    for i in 0..200u64 {
        let (writer, reader) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
        writer.write_all_at(&pattern(i, 3000), i * 2500).unwrap();
        let mut seen = vec![0; 3000];
        reader.read_exact_at(&mut seen, i * 2500).unwrap();
        assert!(seen == pattern(i, 3000));
    }
    a.set_len(1000).unwrap();
    assert_eq!(b.metadata().unwrap().len(), 1000);
    b.set_len(5000).unwrap();
    assert!(read_all(&a)[1000..].iter().all(|&b| b == 0));
    // One closes: the other goes on.
    drop(a);
    b.write_all_at(b"on", 6000).unwrap();
    b.sync_all().unwrap();
    assert_eq!(&fs::read(&path).unwrap()[6000..], b"on");
}

fn rights_of_a_handle(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    let mut reader = File::open(m.path("file")).unwrap();
    assert_eq!(errno(reader.write(b"x")), libc::EBADF);
    let mut writer = File::options().write(true).open(m.path("file")).unwrap();
    assert_eq!(errno(writer.read(&mut [0])), libc::EBADF);
    // Half a block through a handle that can't read: the rest is kept.
    writer.write_all(b"T").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "Text");
    assert_eq!(errno(File::options().write(true).open(m.root())), libc::EISDIR);
}

/// A file has at most 2^46 bytes (64 TiB), and beyond that comes EFBIG.
fn big_offsets(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let file = open_rw(&m.path("far"));
    // Over the edges of regions, up to a tebibyte.
    let places = [(1 << 30) - 3, (1 << 31) - 1, (5 << 30) + 4095, 1 << 40];
    for (i, &at) in places.iter().enumerate() {
        file.write_all_at(&pattern(i as u64, 10_000), at).unwrap();
    }
    assert_eq!(errno(file.set_len((1 << 46) + 1)), libc::EFBIG);
    drop(file);
    m.remount();
    let file = open_rw(&m.path("far"));
    assert_eq!(file.metadata().unwrap().len(), (1 << 40) + 10_000);
    for (i, &at) in places.iter().enumerate() {
        let mut seen = vec![0; 10_000];
        file.read_exact_at(&mut seen, at).unwrap();
        assert!(seen == pattern(i as u64, 10_000), "{at}");
    }
    // Two pages a region.
    let blocks = file.metadata().unwrap().blocks();
    assert!(blocks < 20_000, "{blocks}");
    file.set_len(10).unwrap();
    assert_eq!(read_all(&file), [0; 10]);
}

/// A write moves the modification time, and a read does not.
fn times_follow_writes(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("file");
    fs::write(&path, b"1").unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let file = open_rw(&path);
    file.set_modified(old).unwrap();
    assert_eq!(file.metadata().unwrap().modified().unwrap(), old);
    file.write_all_at(b"2", 0).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    assert!(written > old);
    // Set through the descriptor that made the file, and kept.
    let made = File::create_new(m.path("made")).unwrap();
    made.write_all_at(b"text", 0).unwrap();
    made.set_modified(old).unwrap();
    drop((file, made));
    m.remount();
    assert_eq!(fs::metadata(m.path("made")).unwrap().modified().unwrap(), old);
    let stored = fs::metadata(&path).unwrap().modified().unwrap();
    assert!(stored >= written);
    fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), stored);
}

fn fsync_reaches_the_backing(setup: &Setup) {
    let m = Mounted::new(setup);
    let file = open_rw(&m.path("file"));
    file.write_all_at(&pattern(1, 100_000), 0).unwrap();
    file.sync_all().unwrap();
    let stored = fs::metadata(m.stored(&m.path("file"))).unwrap();
    assert!(stored.len() >= 100_000, "{}", stored.len());
    file.sync_data().unwrap();
    File::open(m.root()).unwrap().sync_all().unwrap();
    // SAFETY: a call without pointers.
    assert_eq!(unsafe { libc::syncfs(file.as_raw_fd()) }, 0);
}

fn many_writers_of_one_file(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("file");
    File::create(&path).unwrap();
    let data = pattern(1, 4 << 20);
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (path, data) = (&path, &data);
            scope.spawn(move || {
                let file = open_rw(path);
                // Pieces of all threads lie in the same blocks.
                for (i, piece) in data.chunks(1111).enumerate().filter(|(i, _)| i % 8 == thread) {
                    file.write_all_at(piece, i as u64 * 1111).unwrap();
                    if i % 500 == thread {
                        file.sync_all().unwrap();
                    }
                }
            });
        }
    });
    assert!(fs::read(&path).unwrap() == data);
    m.remount();
    assert!(fs::read(&path).unwrap() == data);
}

/// The modification time that `stat` shows while a file is open for writing is the one that is stored when it is
/// closed.
fn times_are_kept_over_a_close(setup: &Setup) {
    // Found here: the record that a close writes moved the mtime that the kernel had set before.
    let mut m = Mounted::new(setup);
    let path = m.path("file");
    fs::write(&path, b"1").unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    // Rewritten, then given a time through the descriptor, as tar does it.
    let file = open_rw(&path);
    file.write_all_at(b"2", 0).unwrap();
    file.set_modified(old).unwrap();
    drop(file);
    m.remount();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old);
    // What stat says while the file is open is what is stored.
    let file = open_rw(&path);
    file.write_all_at(b"3", 0).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    drop(file);
    m.remount();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
}

/// The backing is told an mtime of the write-back cache at the close; what a user sets before counts, and what is written
/// after that, cached or not.
fn times_of_an_open_file_are_the_last_that_were_set(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("file");
    fs::write(&path, vec![1; 9000]).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    let mtime = || fs::metadata(&path).unwrap().modified().unwrap();
    // Synced, so that the cache has said when.
    let file = open_rw(&path);
    file.write_all_at(b"2", 0).unwrap();
    file.sync_all().unwrap();
    let synced = mtime();
    fs::hard_link(&path, m.path("link")).unwrap();
    assert_eq!(fs::metadata(m.path("link")).unwrap().modified().unwrap(), synced);
    file.set_modified(old).unwrap();
    file.sync_all().unwrap();
    assert_eq!(mtime(), old);
    drop(file);
    m.remount();
    assert_eq!(mtime(), old);
    let file = open_rw(&path);
    file.write_all_at(b"3", 4096).unwrap();
    file.sync_all().unwrap();
    file.set_modified(old).unwrap();
    file.set_len(5000).unwrap();
    let cut = mtime();
    assert!(cut > synced, "a cut changes the file");
    file.write_all_at(b"4", 4096).unwrap();
    file.sync_all().unwrap();
    let written = mtime();
    assert!(written >= cut);
    drop(file);
    m.remount();
    assert_eq!(mtime(), written);
    // Past the cache.
    let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let room = vec![5; 3 * 4096];
    let at = room.as_ptr().align_offset(4096);
    direct.write_all_at(&room[at..at + 4096], 0).unwrap();
    drop(direct);
    m.remount();
    assert!(mtime() > written);
}
