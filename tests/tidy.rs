//! What no compiler checks: imports point down, each heavy library has one user, and files keep to the house rules.
//!
//! The checks read the sources as text. They look at code only: comments, strings and character literals are blanked
//! before names are searched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The modules from the top down: each may use those of later rows, and none of its own row but itself.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["app"],
    &["config"],
    &["http"],
    &["pins"],
    &["provide"],
    &["fetch", "gateway", "routing", "transfer"],
    &["retrieval"],
    &["auth", "net"],
    &["bitswap", "car", "dag", "denylist", "store"],
    &["model"],
];

/// Outside the layers: the logs' set-up, for those who start the program.
const TELEMETRY: &str = "telemetry";
const TELEMETRY_USERS: &[&str] = &["main", "cli", "app", "config", TELEMETRY];

/// Each heavy library and the one module that may name it.
const LIBRARIES: &[(&str, &str)] = &[
    ("libp2p", "net"),
    ("libp2p_stream", "net"),
    ("axum", "http"),
    ("redb", "store"),
    ("clap", "cli"),
    ("hickory_resolver", "retrieval"),
    ("rustls_acme", "http"),
];

const FILE_LINES_MAX: usize = 800;

/// Words for work that isn't done; written so that this file doesn't hold them.
const UNFINISHED: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!"), concat!("unimple", "mented!")];

/// What is wrong with one file; `path` is relative to `src`.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("src/{path}: {what}"));
    if !text.starts_with("//!") {
        fault("does not begin with `//!`".into());
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        fault(format!("has {lines} lines, more than {FILE_LINES_MAX}"));
    }
    for word in UNFINISHED {
        if text.contains(word) {
            fault(format!("holds `{word}`"));
        }
    }
    let module = path.split(['/', '.']).next().unwrap_or_default();
    let code = blank_comments_and_strings(text);
    let words = words(&code);
    for (library, owner) in LIBRARIES {
        if module != *owner && names_library(&words, library) {
            fault(format!("names `{library}`, which is for src/{owner} alone"));
        }
    }
    if module != "lib" {
        for used in used_modules(&words) {
            if !may_use(module, &used) {
                fault(format!("uses `crate::{used}`, which is not below `{module}`"));
            }
        }
    }
    faults
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

fn may_use(module: &str, used: &str) -> bool {
    if module == used {
        return true;
    }
    if used == TELEMETRY {
        return TELEMETRY_USERS.contains(&module);
    }
    match (layer(module), layer(used)) {
        (Some(above), Some(below)) => above < below,
        // A module that no row has belongs in one.
        _ => false,
    }
}

/// Identifiers and punctuation; `::` is one word.
fn words(code: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut characters = code.chars().peekable();
    while let Some(character) = characters.next() {
        if character.is_alphanumeric() || character == '_' {
            let mut word = String::from(character);
            while let Some(next) = characters.next_if(|next| next.is_alphanumeric() || *next == '_') {
                word.push(next);
            }
            words.push(word);
        } else if character == ':' && characters.next_if_eq(&':').is_some() {
            words.push("::".into());
        } else if !character.is_whitespace() {
            words.push(character.into());
        }
    }
    words
}

/// Whether a path begins with the library: `libp2p::…`, `use libp2p…`, also inside `use {…}`.
fn names_library(words: &[String], library: &str) -> bool {
    words.iter().enumerate().any(|(index, word)| {
        let before = index.checked_sub(1).and_then(|index| words.get(index)).map_or("", String::as_str);
        let after = words.get(index + 1).map_or("", String::as_str);
        word == library && before != "." && (after == "::" || before == "use" || before == "crate")
    })
}

/// The top-level modules that are named after `crate::` (or, in `main`, after `pinnace::`), in groups too.
fn used_modules(words: &[String]) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (index, pair) in words.windows(2).enumerate() {
        let [root, separator] = pair else { continue };
        if !matches!(root.as_str(), "crate" | "pinnace") || separator != "::" {
            continue;
        }
        let rest = words.get(index + 2..).unwrap_or_default();
        if rest.first().is_some_and(|word| word == "{") {
            used.extend(group_heads(rest));
        } else if let Some(word) = rest.first() {
            used.insert(word.clone());
        }
    }
    used
}

/// The first name of each item of a group that begins with `{`.
fn group_heads(words: &[String]) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut at_head = false;
    for word in words {
        match word.as_str() {
            "{" => {
                depth += 1;
                at_head = depth == 1;
            }
            "}" => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            "," => at_head = depth == 1,
            name => {
                if std::mem::take(&mut at_head) {
                    heads.push(name.to_owned());
                }
            }
        }
    }
    heads
}

/// The code with everything blanked that isn't code.
fn blank_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let raw = raw_string_length(rest, code.chars().last());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_length(rest)
        } else if let Some(length) = raw {
            length
        } else if character == '"' {
            quoted_length(rest, '"')
        } else if is_character_literal(rest) {
            quoted_length(rest, '\'')
        } else {
            code.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[length..];
    }
    code
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    // Only ASCII ends a comment, so this is at a character's border, or at the end.
    at
}

/// The length of a raw string that begins here, such as `r"…"` or `br#"…"#`.
fn raw_string_length(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|before| before.is_alphanumeric() || before == '_') {
        return None;
    }
    let inner = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let quoted = inner.trim_start_matches('#');
    let hashes = inner.len() - quoted.len();
    let contents = quoted.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - contents.len();
    Some(contents.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

/// Whether `'` begins a character and not a lifetime.
fn is_character_literal(text: &str) -> bool {
    let mut characters = text.chars();
    let (quote, first, second) = (characters.next(), characters.next(), characters.next());
    quote == Some('\'') && (first == Some('\\') || second == Some('\''))
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return at + 1;
        }
    }
    text.len()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn the_sources_are_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths).unwrap();
    assert!(paths.len() > 20, "only {} files found", paths.len());
    let mut faults = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let relative = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        faults.extend(check(&relative, &text));
    }
    faults.sort();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_module_of_the_crate_has_a_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(module == "lib" || module == TELEMETRY || layer(&module).is_some(), "{module} is in no layer");
    }
}

fn assert_faults(path: &str, text: &str, expected: &[&str]) {
    let faults = check(path, text);
    assert_eq!(faults.len(), expected.len(), "{faults:?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.contains(expected), "{fault} does not tell of {expected}");
    }
}

#[test]
fn a_bad_file_is_found_out() {
    let bad = format!(
        "use crate::{{model::{{Block, limits}}, pins::board, dag}};\n\
         use libp2p::Multiaddr;\n\
         fn f() -> redb::Error {{ crate::net::dial(); crate::telemetry::x() }} // {}\n{}",
        UNFINISHED[0],
        "\n".repeat(FILE_LINES_MAX)
    );
    let own = ["does not begin", "lines", UNFINISHED[0], "`libp2p`", "`redb`"];
    assert_faults("fetch.rs", &bad, &[&own[..], &["`crate::pins`", "`crate::telemetry`"]].concat());
    let sideways = ["`crate::dag`", "`crate::net`", "`crate::pins`", "`crate::telemetry`"];
    assert_faults("bitswap/wire.rs", &bad, &[&own[..], &sideways].concat());
}

#[test]
fn siblings_of_one_layer_and_unknown_modules_are_refused() {
    assert_faults("auth/tokens.rs", "//! a\nuse crate::net::Handle;", &["`crate::net`"]);
    assert_faults("auth/tokens.rs", "//! a\nuse crate::auth::Options;", &[]);
    assert_faults("util.rs", "//! a\nuse crate::model::Block;", &["`crate::model`"]);
    assert_faults("http/pins.rs", "//! a\nuse crate::{self as root, http};", &["`crate::self`"]);
    assert_faults("main.rs", "//! a\nfn main() { pinnace::cli::run() }", &[]);
}

#[test]
fn libraries_are_found_however_they_are_named() {
    for text in [
        "//! a\nuse libp2p;",
        "//! a\nuse libp2p as p2p;",
        "//! a\ntype A = libp2p::PeerId;",
        "//! a\nuse {libp2p::A, b};",
    ] {
        assert_faults("http/pins.rs", text, &["`libp2p`"]);
        assert_faults("net/node.rs", text, &[]);
    }
}

#[test]
fn comments_strings_and_fields_are_no_uses() {
    let text = r##"//! crate::cli and libp2p::PeerId
        /* use crate::cli; /* nested */ libp2p::X */
        fn f<'a>(x: &'a str) { let s = "crate::cli \" libp2p::X"; let r = r#"crate::cli " libp2p::"#; let c = '"'; let d = '\''; }
        // the quotes above are closed, so this is found:
        fn g() { crate::pins::x() }
    "##;
    assert_faults("model/block.rs", text, &["`crate::pins`"]);
    assert_faults("model/block.rs", "//! a\nfn f() { self.redb.x(); store_redb::x(); let redb = 1; }", &[]);
}
