//! Data directories that can't be used.

use std::fs;
use std::path::Path;

use crate::support::daemon::{Home, Serve};

async fn assert_refused(home: &Home, data: &Path, texts: &[&str]) {
    let failure = Serve::new(data, home.path("refused.log")).fail().await;
    failure.says(&[data.to_str().unwrap()]);
    failure.says(texts);
}

#[tokio::test]
async fn a_file_is_no_data_directory() {
    let home = Home::new();
    fs::write(home.data(), "notes").unwrap();
    assert_refused(&home, &home.data(), &["is not a directory", "--data"]).await;
    assert_refused(&home, &home.data().join("below"), &["Not a directory"]).await;
    assert_eq!(fs::read_to_string(home.data()).unwrap(), "notes");
}

#[tokio::test]
async fn a_directory_of_someone_else_is_left_alone() {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("thesis.tex"), "months of work").unwrap();
    assert_refused(&home, &home.data(), &["is not empty and was not made by pinnace", "--data"]).await;
    let names: Vec<_> = fs::read_dir(home.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["thesis.tex"]);
}

#[tokio::test]
async fn a_second_process_is_told_of_the_first() {
    let home = Home::new();
    let mut first = home.start().await;
    let pid = first.ready.pid.to_string();
    assert_refused(&home, &home.data(), &["in use", &format!("process {pid}"), "--data"]).await;
    assert!(first.is_running());
    assert_eq!(first.api().count("queued").await, 0);
    // A process that was killed leaves its lock file behind, and no lock.
    first.kill().await;
    home.start().await;
}

/// Replaces a file of a stopped service by what `damage` makes of it, and checks how the next start ends.
async fn assert_damage_is_told(file: &str, texts: &[&str], damage: impl Fn(Vec<u8>) -> Vec<u8>) {
    let home = Home::new();
    let (status, _) = home.start().await.terminate().await;
    assert!(status.success());
    let path = home.data().join(file);
    let damaged = damage(fs::read(&path).unwrap());
    fs::write(&path, &damaged).unwrap();
    // A journal that a hurried stop left behind may hold every page that is damaged here, and would mend them.
    let _ = fs::remove_file(home.data().join(format!("{file}-journal")));
    let failure = home.serve().fail().await;
    failure.says_in_the_end(&[path.to_str().unwrap()]);
    failure.says_in_the_end(texts);
    assert!(fs::read(&path).unwrap() == damaged, "the file is left as it was, for whoever can mend it");
}

fn garbage(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.fill(0xa5);
    bytes
}

fn first_half(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// Damage behind the header, which redb meets with a panic.
fn garbage_behind_the_header(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[4096..].fill(0xa5);
    bytes
}

#[tokio::test]
async fn damaged_records_are_told() {
    assert_damage_is_told("records.redb", &["can't be opened"], garbage).await;
    assert_damage_is_told("records.redb", &["can't be opened"], first_half).await;
    assert_damage_is_told("records.redb", &["damaged", "backup"], garbage_behind_the_header).await;
}

#[tokio::test]
async fn damaged_blocks_are_told() {
    assert_damage_is_told("blocks.redb", &["can't be opened"], garbage).await;
    assert_damage_is_told("blocks.redb", &["can't be opened"], first_half).await;
    assert_damage_is_told("blocks.redb", &["damaged", "backup"], garbage_behind_the_header).await;
}

#[tokio::test]
async fn a_damaged_identity_is_told() {
    let texts = ["can't be used", "restore it from a backup"];
    assert_damage_is_told("identity.key", &texts, garbage).await;
    assert_damage_is_told("identity.key", &texts, first_half).await;
    assert_damage_is_told("identity.key", &texts, |_| Vec::new()).await;
}

#[tokio::test]
async fn an_emptied_file_is_no_new_start() {
    for file in ["records.redb", "blocks.redb"] {
        assert_damage_is_told(file, &["can't be opened"], |_| Vec::new()).await;
    }
}
