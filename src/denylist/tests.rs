//! The format line by line, what rules say, and what becomes of files that change.

use std::fs;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use super::parse::parse;
use super::rules::Rules;
use super::*;

const ROOT: &str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";

fn cid(text: &str) -> Cid {
    text.parse().unwrap()
}

fn rules(text: &str) -> Rules {
    let mut rules = Rules::default();
    parse(text.as_bytes(), |rule| rules.add(rule)).unwrap();
    rules.seal();
    rules
}

fn fault(text: &[u8]) -> (usize, Fault) {
    let error = parse(text, |_| {}).unwrap_err();
    (error.line, error.fault)
}

fn sha256_hex(text: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(text).into();
    digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[test]
fn a_block_is_denied_under_every_cid() {
    let root = cid(ROOT);
    for rule in [format!("/ipfs/{ROOT}"), format!("/ipld/{ROOT} reason=x"), format!("/ipfs/{ROOT}/*\r")] {
        let rules = rules(&rule);
        assert!(rules.denies(&root), "{rule}");
        assert!(rules.denies(&Cid::new_v0(*root.hash()).unwrap()));
        assert!(rules.denies(&Cid::new_v1(0x55, *root.hash())));
        assert!(!rules.denies(&cid("bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")));
    }
}

#[test]
fn a_path_rule_concerns_paths_alone() {
    let root = cid(ROOT);
    for (rule, denied, others) in [
        ("a/b", &["a/b"][..], &["a", "a/b/c", "a/bc"][..]),
        ("a%20b/", &["a b"], &["a%20b"]),
        ("a/*", &["a", "a/b", "ab"], &["b"]),
        ("a+b", &["a+b"], &["a b"]),
        ("a*", &["a", "a/b", "ab"], &["b"]),
        ("a%2a", &["a*"], &["a", "ab"]),
    ] {
        let rules = rules(&format!("/ipfs/{ROOT}/{rule}"));
        assert!(!rules.denies(&root), "{rule}");
        for (paths, expected) in [(denied, true), (others, false)] {
            for path in paths {
                assert_eq!(rules.denies_path(&root, path), expected, "{rule} {path}");
            }
        }
    }
}

#[test]
fn double_hashes_are_of_base32_or_base58() {
    let root = cid(ROOT);
    let base58 = cid::multibase::Base::Base58Btc.encode(root.hash().to_bytes());
    let legacy = sha256_hex(&format!("{ROOT}/"));
    assert!(rules(&format!("//{legacy}")).denies(&root));
    assert!(rules(&format!("//{}", legacy.to_uppercase())).denies(&Cid::new_v0(*root.hash()).unwrap()));
    assert!(rules(&format!("//{legacy}")).denies(&Cid::new_v1(0x55, *root.hash())), "as another codec");
    assert!(!rules(&format!("//{}", sha256_hex(ROOT))).denies(&root));
    for code in [0x12, 0x13, 0xb220, 0x1e] {
        let hash = crate::model::block::HashFunction::of(code).unwrap().digest(base58.as_bytes());
        let rule = format!("//{}", cid::multibase::Base::Base58Btc.encode(hash.to_bytes()));
        assert!(rules(&rule).denies(&root), "0x{code:x}");
        assert!(!rules(&rule).denies_path(&root, "a"));
    }
    let path = rules(&format!("//{}", sha256_hex(&format!("{ROOT}/a/b"))));
    assert!(path.denies_path(&root, "a/b") && !path.denies(&root) && !path.denies_path(&root, "a"));
}

#[test]
fn an_allowing_rule_wins_over_double_hashes_and_over_earlier_rules() {
    let (root, double) = (cid(ROOT), sha256_hex(&format!("{ROOT}/")));
    assert!(!rules(&format!("!/ipfs/{ROOT}\n//{double}")).denies(&root));
    assert!(!rules(&format!("/ipfs/{ROOT}\n!/ipfs/{ROOT}")).denies(&root));
    assert!(rules(&format!("!/ipfs/{ROOT}\n/ipfs/{ROOT}")).denies(&root));
    let paths = rules(&format!("/ipfs/{ROOT}/a*\n!/ipfs/{ROOT}/ab"));
    assert!(paths.denies_path(&root, "ac") && !paths.denies_path(&root, "ab"));
}

#[test]
fn headers_comments_and_names_are_read() {
    let text = format!("version: 1\nname: x\n---\n# comment\n\n  \n/ipns/example.org\n/ipfs/{ROOT}\n");
    let rules = rules(&text);
    assert!(rules.denies(&cid(ROOT)));
    assert_eq!(rules.count(), 2);
    assert_eq!(super::tests::rules("").count(), 0);
}

/// The example of the specification, with what it says of each rule.
#[test]
fn the_rules_of_the_specification_mean_what_it_says() {
    let denies = |rule: &str, text: &str| rules(rule).denies(&cid(text));
    let modern = "//QmX9dhRcQcKUw3Ws8485T5a9dtjrSCQaUAHnG4iK9i4ceM";
    assert!(denies(modern, "bafybeidjwik6im54nrpfg7osdvmx7zojl5oaxqel5cmsz46iuelwf5acja"));
    assert!(denies(modern, "QmVTF1yEejXd9iMgoRTFDxBv7HAz9kuZcQNBzHrceuK9HR"));
    let legacy = "//d9d295bde21f422d471a90f2a37ec53049fdf3e5fa3ee2e8f20e10003da429e7";
    let listed = "bafybeiefwqslmf6zyyrxodaxx4vwqircuxpza5ri45ws3y5a62ypxti42e";
    assert!(denies(legacy, listed));
    let path = rules("//3f8b9febd851873b3774b937cce126910699ceac56e72e64b866f8e258d09572");
    assert!(
        path.denies_path(&cid(listed), "path")
            && !path.denies_path(&cid(listed), "path2")
            && !path.denies(&cid(listed))
    );
    let path = rules("//gW813G35CnLsy7gRYYHuf63hrz71U1xoLFDVeV7actx6oX");
    let root = cid("bafyb4ieqht3b2rssdmc7sjv2cy2gfdilxkfh7623nvndziyqnawkmo266a");
    assert!(path.denies_path(&root, "path") && !path.denies_path(&root, "path2"));
    let made = rules("//QmSju6XPmYLG611rmK7rEeCMFVuL6EHpqyvmEU6oGx3GR8");
    assert!(made.denies_path(&cid("bafybeihrw75yfhdx5qsqgesdnxejtjybscwuclpusvxkuttep6h7pkgmze"), "my/path"));

    let root = "QmUboz9UsQBDeS6Tug1U8jgoFkgYxyYood9NDyVURAY9pK";
    let blocked = rules(&format!(
        "/ipfs/{root}/blocked*\n!/ipfs/{root}/blockednot\n!/ipfs/{root}/blocked/not\n!/ipfs/{root}/blocked/exceptions*\n"
    ));
    for (path, denied) in [
        ("blocked", true),
        ("blocked2", true),
        ("blockednot", false),
        ("blocked/not", false),
        ("blocked/not2", true),
        ("blocked/exceptions/all", false),
        ("other", false),
    ] {
        assert_eq!(blocked.denies_path(&cid(root), path), denied, "{path}");
    }
}

#[test]
fn what_is_no_rule_is_refused_with_its_line() {
    assert_eq!(fault(b"version: 2\n---\n"), (1, Fault::Version("2".into())));
    assert_eq!(fault(b"version: 1\n---\n\nhello"), (4, Fault::NoRule("hello".into())));
    assert!(matches!(fault(b"/ipfs/hello"), (1, Fault::Cid(_))));
    assert_eq!(fault(format!("version: 1\n/ipfs/{ROOT}\n---\n").as_bytes()), (2, Fault::RuleInHeader));
    assert_eq!(fault(b"#\n//zz"), (2, Fault::DoubleHash("zz".into())));
    assert_eq!(fault(b"/ipns/"), (1, Fault::NoName));
    assert_eq!(fault(b"\xff"), (1, Fault::NotText));
    assert_eq!(fault(format!("/ipfs/{ROOT}/a%2").as_bytes()), (1, Fault::Escape));
    let long = 2 * 1024 * 1024 - 1;
    assert_eq!(fault("#".repeat(long + 1).as_bytes()), (1, Fault::LongLine { bytes: long + 1 }));
    parse("#".repeat(long).as_bytes(), |_| {}).unwrap();
    // A header that is too long is none, so that its lines are no rules.
    let header = |bytes: usize| format!("{}\n---\n", "a".repeat(bytes - 1));
    parse(header(1024 * 1024).as_bytes(), |_| {}).unwrap();
    assert!(matches!(fault(header(1024 * 1024 + 1).as_bytes()), (1, Fault::NoRule(_))));
}

#[test]
fn random_lists_are_read_or_refused_and_rules_deny_what_they_name() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let pieces = [
        "/ipfs/",
        "/ipns/",
        "//",
        ROOT,
        "+",
        "!",
        "-",
        "#",
        "*",
        "%",
        "%41",
        "/",
        " ",
        "\n",
        "---\n",
        "version: 1",
        "é",
    ];
    for _ in 0..2000 {
        let text: String =
            (0..random.random_range(0..12)).map(|_| pieces[random.random_range(0..pieces.len())]).collect();
        let mut rules = Rules::default();
        let _ = parse(text.as_bytes(), |rule| rules.add(rule));
        rules.seal();
        let _ = (rules.denies(&cid(ROOT)), rules.denies_path(&cid(ROOT), "A"));
    }
    let all: Vec<(Cid, bool)> = (0..500)
        .map(|_| {
            let digest: [u8; 32] = random.random();
            (Cid::new_v1(0x55, cid::multihash::Multihash::wrap(0x12, &digest).unwrap()), random.random())
        })
        .collect();
    let lines = all.iter().filter(|(_, denied)| *denied).map(|(cid, _)| {
        if random.random() { format!("/ipfs/{cid}\n") } else { format!("//{}\n", sha256_hex(&format!("{cid}/"))) }
    });
    let rules = rules(&lines.collect::<String>());
    for (cid, denied) in all {
        assert_eq!(rules.denies(&cid), denied, "{cid}");
    }
}

#[test]
fn a_changed_file_counts_and_a_broken_one_leaves_the_old_rules() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("list.deny");
    let options = Options { files: vec![path.clone()] };
    assert!(Denylist::open(&options).unwrap_err().to_string().contains("list.deny can't be read"));
    fs::write(&path, "hello\n").unwrap();
    assert!(Denylist::open(&options).unwrap_err().to_string().contains("list.deny, line 1: "));

    fs::write(&path, "# nothing\n").unwrap();
    let list = Denylist::open(&options).unwrap();
    let look = || list.0.as_ref().unwrap().look();
    assert!(!list.denies(&cid(ROOT)));
    fs::write(&path, format!("# nothing\n/ipfs/{ROOT}\n")).unwrap();
    look();
    assert!(list.denies(&cid(ROOT)));
    assert_eq!((list.state().unwrap().0, list.warning()), (1, None));

    for broken in [Some("# nothing\nno rule\n"), None] {
        match broken {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        look();
        assert!(list.denies(&cid(ROOT)));
        assert!(list.warning().unwrap().contains("list.deny"), "{:?}", list.warning());
    }
    fs::write(&path, "#\n").unwrap();
    look();
    assert!(!list.denies(&cid(ROOT)));
    assert_eq!(list.warning(), None);
}

#[test]
fn without_files_nothing_is_denied() {
    let list = Denylist::open(&Options::default()).unwrap();
    assert!(!list.has_files() && !list.denies(&cid(ROOT)) && list.state().is_none());
}
