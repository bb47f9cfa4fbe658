//! Replays what fuzzing has found, and the messages that it began with, through the same properties as the fuzz targets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this program is a test, helpers included")]

#[path = "../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[test]
fn every_file_of_the_corpus_still_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, property) in properties::ALL {
        let files = fs::read_dir(corpus.join(target)).unwrap_or_else(|error| panic!("no corpus of {target}: {error}"));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let data = fs::read(&path).unwrap();
            assert!(catch_unwind(|| property(&data)).is_ok(), "{} fails", path.display());
            count += 1;
        }
        assert!(count > 4, "only {count} files for {target}");
    }
}
