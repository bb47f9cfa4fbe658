//! Files as others write them, and files as nobody should.

use bytes::Bytes;
use cid::Cid;
use proptest::prelude::*;

use super::*;
use crate::model::cids::codec;
use crate::model::limits::BLOCK_BYTES_MAX;
use crate::model::{Block, BlockError};

/// `carv1-basic.car` of the specification: its header and the first of its sections.
const BASIC_HEADER: &str = "63a265726f6f747382d82a58250001711220f88bc853804cf294fe417e4fa83028689fcdb1b1592c5102e1474dbc200fab8b\
d82a5825000171122069ea0740f9807a28f4d932c62e7c1c83be055e55072c90266ab3e79df63a365b6776657273696f6e01";

/// The first 11 bytes of every file of version 2, from its specification.
const V2_PRAGMA: [u8; 11] = [0x0a, 0xa1, 0x67, 0x76, 0x65, 0x72, 0x73, 0x69, 0x6f, 0x6e, 0x02];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap()).collect()
}

fn raw(text: &str) -> Block {
    Block::new_sha256(codec::RAW, Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn file(roots: &[Cid], blocks: &[Block]) -> Vec<u8> {
    let mut file = header(roots);
    for block in blocks {
        file.extend(section(block.cid(), block.data()));
    }
    file
}

/// Version 2 with padding around the data, and an index behind it.
fn v2(data: &[u8], padding: usize) -> Vec<u8> {
    let mut file = V2_PRAGMA.to_vec();
    file.extend([0; 16]);
    for number in [51 + padding, data.len(), 51 + 2 * padding + data.len()] {
        file.extend((number as u64).to_le_bytes());
    }
    file.extend(vec![0; padding]);
    file.extend(data);
    file.extend(vec![0; padding]);
    file.extend(b"an index");
    file
}

/// Reads all of it, in pieces of that size.
fn read(file: &[u8], piece: usize) -> Result<(Vec<Cid>, Vec<Block>), CarError> {
    let mut decoder = Decoder::new();
    let (mut roots, mut blocks) = (None, Vec::new());
    for piece in file.chunks(piece) {
        decoder.feed(piece);
        while let Some(item) = decoder.next_item()? {
            match item {
                Item::Roots(found) => assert!(roots.replace(found).is_none() && blocks.is_empty()),
                Item::Block(block) => blocks.push(block),
            }
        }
    }
    decoder.finish()?;
    Ok((roots.unwrap(), blocks))
}

#[test]
fn what_was_written_reads_back_in_pieces_of_any_size_and_in_both_versions() {
    let v0: Cid = "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n".parse().unwrap();
    let blocks = vec![raw("a"), raw(""), raw(&"b".repeat(100_000)), raw("a")];
    let roots = vec![*blocks[0].cid(), v0];
    let file = file(&roots, &blocks);
    let expected = (roots, blocks);
    for piece in [1, 7, 4096, file.len()] {
        assert_eq!(read(&file, piece).unwrap(), expected, "pieces of {piece}");
        for padding in [0, 1, 5000] {
            assert_eq!(read(&v2(&file, padding), piece).unwrap(), expected, "version 2, pieces of {piece}");
        }
    }
    assert_eq!(read(&header(&[]), 3).unwrap(), (Vec::new(), Vec::new()));
}

#[test]
fn the_header_is_that_of_the_specification() {
    let expected = bytes(BASIC_HEADER);
    let (roots, blocks) = read(&expected, 10).unwrap();
    assert_eq!(roots.len(), 2);
    assert_eq!(roots[0].to_string(), "bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm");
    assert!(blocks.is_empty());
    assert_eq!(header(&roots), expected);
}

#[test]
fn a_file_that_ends_early_says_so_wherever_it_ends() {
    let blocks = vec![raw("first"), raw("second")];
    let whole = file(&[*blocks[0].cid()], &blocks);
    let ends = [header(&[*blocks[0].cid()]).len(), whole.len() - section(blocks[1].cid(), blocks[1].data()).len()];
    for length in 0..whole.len() {
        let outcome = read(&whole[..length], 5);
        if ends.contains(&length) {
            outcome.unwrap();
        } else {
            assert_eq!(outcome.unwrap_err(), CarError::Truncated { at: length as u64 });
        }
        // Version 2 knows how long its data is, so it is whole only at its end, whatever is behind that.
        let second = v2(&whole, 3);
        assert!(read(&second[..54 + length], 5).is_err(), "version 2, {length} bytes of data");
    }
    read(&v2(&whole, 3)[..54 + whole.len()], 5).unwrap();
}

#[test]
fn identity_blocks_are_passed_over() {
    let block = raw("a");
    for length in [0usize, 5, 64, 100, 4000] {
        let mut cid = vec![0x01, 0x55, 0x00];
        let mut buffer = unsigned_varint::encode::usize_buffer();
        cid.extend_from_slice(unsigned_varint::encode::usize(length, &mut buffer));
        cid.extend(vec![7; length]);
        let mut file = header(&[*block.cid()]);
        let section_bytes = cid.len() + length;
        file.extend_from_slice(unsigned_varint::encode::usize(section_bytes, &mut buffer));
        file.extend(&cid);
        file.extend(vec![7; length]);
        file.extend(section(block.cid(), block.data()));
        assert_eq!(read(&file, 100).unwrap().1, std::slice::from_ref(&block), "{length} bytes");
    }
}

#[test]
fn a_block_that_does_not_match_is_named_with_its_place() {
    let (right, wrong) = (raw("right"), raw("wrong"));
    let mut file = file(&[*right.cid()], std::slice::from_ref(&right));
    let at = file.len() as u64;
    file.extend(section(wrong.cid(), b"other"));
    let error = read(&file, 64).unwrap_err();
    assert_eq!(error, CarError::Block { at, source: BlockError::Mismatch { cid: *wrong.cid() } });
    assert!(error.to_string().contains(&wrong.cid().to_string()), "{error}");
}

#[test]
fn lengths_and_headers_that_can_not_be_are_refused_before_anything_is_held() {
    let (block, start) = (raw("a"), header(&[*raw("a").cid()]));
    let malformed = |file: &[u8]| {
        let error = read(file, 1).unwrap_err();
        assert!(matches!(error, CarError::Malformed { .. }), "{error}");
        error.to_string()
    };
    for varint in [&[0xff; 12][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0x00], &[0x80, 0x00]] {
        malformed(varint);
        malformed(&[&start, varint].concat());
    }
    let mut buffer = unsigned_varint::encode::usize_buffer();
    let long = unsigned_varint::encode::usize(BLOCK_BYTES_MAX + 1000, &mut buffer);
    assert!(malformed(&[&start, long].concat()).contains("at most"));
    let largest = Block::new_sha256(codec::RAW, vec![0; BLOCK_BYTES_MAX].into()).unwrap();
    assert_eq!(read(&file(&[], std::slice::from_ref(&largest)), 1 << 20).unwrap().1, [largest]);

    // Not CBOR, no map, another version, no roots, too many, a field that nobody knows with deep nesting behind it.
    let nested = [&[0xa1, 0x61, b'x'][..], &vec![0x81; 100_000]].concat();
    let many = header(&vec![*block.cid(); ROOTS_MAX + 1]);
    for bytes in [&b"hello"[..], &[0x80], b"\xa2\x65roots\x80\x67version\x03", b"\xa1\x67version\x01", &nested] {
        let prefix = unsigned_varint::encode::usize(bytes.len(), &mut buffer);
        malformed(&[prefix, bytes].concat());
    }
    assert!(malformed(&many).contains("roots"));

    // Version 2: inside itself, with its data nowhere, without an end, and with a section beyond it.
    malformed(&v2(&v2(&start, 0), 0));
    let whole = file(&[], &[block]);
    for (from, number) in [(27, 0u64), (27, 50), (35, 0), (35, u64::MAX), (35, whole.len() as u64 - 1)] {
        let mut file = v2(&whole, 0);
        file[from..from + 8].copy_from_slice(&number.to_le_bytes());
        malformed(&file);
    }
}

proptest! {
    /// Whatever is changed in a file, it reads or it doesn't; and blocks that are read are sound, or they wouldn't exist.
    #[test]
    fn nothing_panics(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), second: bool) {
        let mut file = file(&[*raw("x").cid()], &[raw("x"), raw(&"y".repeat(300))]);
        if second {
            file = v2(&file, 4);
        }
        for (index, byte) in changes {
            let index = index.index(file.len());
            file[index] = byte;
        }
        let _ = read(&file, 17);
    }

    #[test]
    fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&noise, 13).is_err());
    }
}
