//! What the accounts promise, against a real file.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn options() -> Options {
    Options {
        admin_email: "Admin@Example.org ".into(),
        admin_password: "long enough".into(),
        admin_file: PathBuf::new(),
        access_token_days: 365,
        refresh_token_days: 730,
        registration: Registration::Closed,
        quota_bytes: bytesize::ByteSize(0),
        quota_pins: 0,
        requests_per_second: 0,
    }
}

struct Setup {
    directory: tempfile::TempDir,
    accounts: Accounts,
}

async fn setup(options: &Options) -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let accounts = open(&directory, options).await;
    Setup { directory, accounts }
}

async fn open(directory: &tempfile::TempDir, options: &Options) -> Accounts {
    let records = Records::open(&directory.path().join("records.redb"), 1024 * 1024).unwrap();
    Accounts::open(Arc::new(records), options).await.unwrap()
}

async fn create(accounts: &Accounts, email: &str, role: Role) -> UserId {
    let quota = Quota::NONE;
    let new = NewAccount { email: email.into(), password: "long enough".into(), role, quota, pin_lifetime_s: None };
    accounts.create_account(new).await.unwrap().id
}

#[tokio::test]
async fn the_first_start_makes_one_account_and_its_token_survives_a_restart() {
    let Setup { directory, accounts } = setup(&options()).await;
    let first = accounts.ensure_admin(&options()).await.unwrap().unwrap();
    assert_eq!((first.email.as_str(), first.password), ("admin@example.org", None));
    let identity = accounts.authenticate(&first.token).unwrap();
    assert_eq!((identity.kind, identity.scopes, identity.expires_ms), (TokenKind::Device, Scopes::ALL, None));
    assert!(accounts.ensure_admin(&options()).await.unwrap().is_none());
    drop(accounts);

    let accounts = open(&directory, &options()).await;
    assert!(accounts.ensure_admin(&options()).await.unwrap().is_none());
    assert_eq!(accounts.authenticate(&first.token).unwrap(), identity);
    accounts.login("ADMIN@example.org", "long enough", HERE).await.unwrap();
}

#[tokio::test]
async fn the_first_start_generates_what_is_not_given_or_reads_it_from_a_file() {
    let generating = Options { admin_email: String::new(), admin_password: String::new(), ..options() };
    let accounts = setup(&generating).await.accounts;
    let first = accounts.ensure_admin(&generating).await.unwrap().unwrap();
    accounts.login(&first.email, &first.password.unwrap(), HERE).await.unwrap();

    let Setup { directory, accounts } = setup(&generating).await;
    let file = directory.path().join("admin");
    let from_file = Options { admin_file: file.clone(), ..generating };
    assert!(matches!(accounts.ensure_admin(&from_file).await, Err(AuthError::BadAdmin(_))));
    std::fs::write(&file, "one@example.org\n").unwrap();
    assert!(matches!(accounts.ensure_admin(&from_file).await, Err(AuthError::BadAdmin(_))));
    std::fs::write(&file, "one@example.org\nshort\n").unwrap();
    assert!(matches!(accounts.ensure_admin(&from_file).await, Err(AuthError::BadAdmin(_))));
    std::fs::write(&file, "one@example.org\nfrom the file\n").unwrap();
    let first = accounts.ensure_admin(&from_file).await.unwrap().unwrap();
    assert_eq!((first.email.as_str(), first.password), ("one@example.org", None));
    accounts.login("one@example.org", "from the file", HERE).await.unwrap();
}

#[tokio::test]
async fn a_login_fails_alike_for_a_wrong_password_and_an_unknown_address_until_it_must_wait() {
    let accounts = setup(&options()).await.accounts;
    accounts.ensure_admin(&options()).await.unwrap().unwrap();
    for _ in 0..10 {
        for email in ["admin@example.org", "nobody@example.org"] {
            assert!(matches!(accounts.login(email, "wrong", HERE).await, Err(AuthError::WrongCredentials)));
        }
    }
    for email in ["admin@example.org", "nobody@example.org"] {
        assert!(matches!(accounts.login(email, "long enough", HERE).await, Err(AuthError::TooManyAttempts { .. })));
    }
    // Elsewhere, the account's owner isn't locked out.
    accounts.login("admin@example.org", "long enough", IpAddr::from([192, 0, 2, 1])).await.unwrap();
}

#[tokio::test]
async fn refreshing_rotates_and_a_late_second_use_revokes_the_family() {
    let accounts = setup(&options()).await.accounts;
    accounts.ensure_admin(&options()).await.unwrap().unwrap();
    let login = || accounts.login("admin@example.org", "long enough", HERE);
    let first = login().await.unwrap();
    let other = login().await.unwrap();
    let second = accounts.refresh(&first.refresh).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(accounts.refresh(&first.refresh).await.unwrap(), second);
    let third = accounts.refresh(&second.refresh).await.unwrap();
    for access in [&first.access, &second.access, &third.access] {
        accounts.authenticate(access).unwrap();
    }

    let late_ms = now_ms() + 61_000;
    let (reused, lifetimes) = (accounts.keys().verify(&first.refresh).unwrap().jti, accounts.lifetimes);
    let outcome =
        accounts.records.write(move |change| token::rotate(change, reused, lifetimes, 0, late_ms)).await.unwrap();
    assert!(outcome.is_err());
    accounts.sessions.forget();
    for access in [&first.access, &second.access, &third.access] {
        assert!(matches!(accounts.authenticate(access), Err(AuthError::InvalidToken(token::REVOKED))));
    }
    assert!(matches!(accounts.refresh(&third.refresh).await, Err(AuthError::InvalidToken(token::REVOKED))));
    accounts.authenticate(&other.access).unwrap();
}

#[tokio::test]
async fn kinds_of_tokens_are_not_mixed_up_and_a_logout_ends_all_of_a_login() {
    let accounts = setup(&options()).await.accounts;
    let device = accounts.ensure_admin(&options()).await.unwrap().unwrap().token;
    let pair = accounts.login("admin@example.org", "long enough", HERE).await.unwrap();
    assert!(matches!(accounts.authenticate(&pair.refresh), Err(AuthError::InvalidToken(_))));
    assert!(matches!(accounts.refresh(&pair.access).await, Err(AuthError::InvalidToken(_))));
    assert!(matches!(accounts.refresh(&device).await, Err(AuthError::InvalidToken(_))));

    let identity = accounts.authenticate(&pair.access).unwrap();
    accounts.logout(&identity).await.unwrap();
    assert!(matches!(accounts.authenticate(&pair.access), Err(AuthError::InvalidToken(token::REVOKED))));
    assert!(matches!(accounts.refresh(&pair.refresh).await, Err(AuthError::InvalidToken(token::REVOKED))));
    accounts.authenticate(&device).unwrap();
}

#[tokio::test]
async fn expired_tokens_are_refused_by_signature_and_by_record() {
    let expired = Options { access_token_days: 0, refresh_token_days: 0, ..options() };
    let accounts = setup(&expired).await.accounts;
    accounts.ensure_admin(&expired).await.unwrap().unwrap();
    let pair = accounts.login("admin@example.org", "long enough", HERE).await.unwrap();
    assert!(matches!(accounts.authenticate(&pair.access), Err(AuthError::InvalidToken(token::EXPIRED))));
    assert!(matches!(accounts.refresh(&pair.refresh).await, Err(AuthError::InvalidToken(token::EXPIRED))));
}

#[tokio::test]
async fn a_login_removes_tokens_that_have_expired() {
    let accounts = setup(&options()).await.accounts;
    let device = accounts.ensure_admin(&options()).await.unwrap().unwrap().token;
    let other = create(&accounts, "other@example.org", Role::User).await;
    let (user, lifetimes) = (accounts.authenticate(&device).unwrap().user, accounts.lifetimes);
    let old_ms = now_ms() - 366 * 24 * 60 * 60 * 1000;
    let (access, refresh) = lifetimes.new_pair(user, TokenId::new(), 0, old_ms);
    let (of_other, _) = lifetimes.new_pair(other, TokenId::new(), 0, old_ms);
    let ids = [access.id, refresh.id, of_other.id];
    let put = accounts
        .records
        .write(move |change| [&access, &refresh, &of_other].into_iter().try_for_each(|token| change.put_token(token)));
    put.await.unwrap();

    let pair = accounts.login("admin@example.org", "long enough", HERE).await.unwrap();
    assert_eq!(ids.map(|id| accounts.records.token(id).unwrap().is_some()), [false, true, true]);
    accounts.authenticate(&device).unwrap();
    accounts.authenticate(&pair.access).unwrap();
    let by_user =
        accounts.records.write(move |change| change.remove_expired_tokens(user, i64::MAX, 100)).await.unwrap();
    assert_eq!(by_user, 3, "the index has what the table has");
}

#[tokio::test]
async fn rotated_keys_keep_tokens_valid_until_they_are_forgotten() {
    let Setup { directory, accounts } = setup(&options()).await;
    let device = accounts.ensure_admin(&options()).await.unwrap().unwrap().token;
    let pair = accounts.login("admin@example.org", "long enough", HERE).await.unwrap();
    let rotation = accounts.rotate_keys(false).await.unwrap();
    assert_eq!(rotation, KeyRotation { key: 1, kept: 1, forgotten: 0 });
    accounts.authenticate(&device).unwrap();
    // The same pair again, though another key signs now.
    let next = accounts.refresh(&pair.refresh).await.unwrap();
    assert_eq!(accounts.refresh(&pair.refresh).await.unwrap(), next);
    accounts.rotate_keys(false).await.unwrap();
    assert_eq!(accounts.refresh(&pair.refresh).await.unwrap(), next);
    drop(accounts);

    let accounts = open(&directory, &options()).await;
    for token in [&device, &pair.access, &next.access] {
        accounts.authenticate(token).unwrap();
    }
    assert_eq!(accounts.rotate_keys(true).await.unwrap(), KeyRotation { key: 3, kept: 0, forgotten: 3 });
    for token in [&device, &pair.access, &next.access] {
        assert!(matches!(accounts.authenticate(token), Err(AuthError::InvalidToken(token::MALFORMED))));
    }
    assert!(matches!(accounts.refresh(&next.refresh).await, Err(AuthError::InvalidToken(token::MALFORMED))));
    let fresh = accounts.login("admin@example.org", "long enough", HERE).await.unwrap();
    accounts.authenticate(&fresh.access).unwrap();
    // However often the key is changed, the keys stay a few.
    for _ in 0..20 {
        accounts.rotate_keys(false).await.unwrap();
    }
    assert!(matches!(accounts.authenticate(&fresh.access), Err(AuthError::InvalidToken(token::MALFORMED))));
}

#[tokio::test]
async fn the_only_key_of_older_versions_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let secret = [7_u8; 32];
    let records = Records::open(&directory.path().join("records.redb"), 1 << 20).unwrap();
    records.write(move |change| change.set_meta("token_key", &secret)).await.unwrap();
    records.close();
    drop(records);
    let accounts = open(&directory, &options()).await;
    let user = create(&accounts, "a@example.org", Role::User).await;
    let record = NewDeviceToken { name: "old".into(), scopes: Scopes::ALL, expires_ms: None }.record(user, 0, now_ms());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let key = jsonwebtoken::EncodingKey::from_secret(&secret);
    let without_key_id = jsonwebtoken::encode(&header, &token::Claims::of(&record), &key).unwrap();
    accounts.records.write(move |change| change.put_token(&record)).await.unwrap();
    accounts.authenticate(&without_key_id).unwrap();
}

#[tokio::test]
async fn what_is_taken_from_an_account_shows_on_the_next_request() {
    let accounts = setup(&options()).await.accounts;
    accounts.ensure_admin(&options()).await.unwrap().unwrap();
    create(&accounts, "u@example.org", Role::User).await;
    let pair = accounts.login("u@example.org", "long enough", HERE).await.unwrap();
    let change = |change| accounts.change_account("U@example.org ", change);
    let identity = || accounts.authenticate(&pair.access);
    assert_eq!((identity().unwrap().role, identity().unwrap().quota), (Role::User, Quota::NONE));
    change(AccountChange { quota_pins: Some(Some(3)), role: Some(Role::Admin), ..Default::default() }).await.unwrap();
    assert_eq!((identity().unwrap().role, identity().unwrap().quota.pins), (Role::Admin, Some(3)));
    change(AccountChange { is_disabled: Some(true), ..Default::default() }).await.unwrap();
    assert!(matches!(identity(), Err(AuthError::InvalidToken(_))));
    assert!(matches!(accounts.refresh(&pair.refresh).await, Err(AuthError::InvalidToken(_))));
    let login = accounts.login("u@example.org", "long enough", HERE).await;
    assert!(matches!(login, Err(AuthError::InvalidToken(reason)) if reason.contains("disabled")));
    // Who doesn't know the password learns nothing.
    assert!(matches!(accounts.login("u@example.org", "other", HERE).await, Err(AuthError::WrongCredentials)));
    change(AccountChange { is_disabled: Some(false), ..Default::default() }).await.unwrap();
    identity().unwrap();
    change(AccountChange { password: Some("another one".into()), ..Default::default() }).await.unwrap();
    assert!(matches!(identity(), Err(AuthError::InvalidToken(token::REVOKED))));
    assert!(matches!(accounts.login("u@example.org", "long enough", HERE).await, Err(AuthError::WrongCredentials)));
    accounts.login("u@example.org", "another one", HERE).await.unwrap();
    accounts.begin_delete("u@example.org").await.unwrap();
    assert!(matches!(accounts.login("u@example.org", "another one", HERE).await, Err(AuthError::WrongCredentials)));
}

#[tokio::test]
async fn the_last_admin_stays_one() {
    let accounts = setup(&options()).await.accounts;
    accounts.ensure_admin(&options()).await.unwrap().unwrap();
    let last = "admin@example.org";
    let demotions = [
        AccountChange { is_disabled: Some(true), ..Default::default() },
        AccountChange { role: Some(Role::User), ..Default::default() },
    ];
    create(&accounts, "disabled@example.org", Role::Admin).await;
    accounts.change_account("disabled@example.org", demotions[0].clone()).await.unwrap();
    for demotion in demotions.clone() {
        assert!(matches!(accounts.change_account(last, demotion).await, Err(AuthError::LastAdmin)));
    }
    assert!(matches!(accounts.begin_delete(last).await, Err(AuthError::LastAdmin)));
    create(&accounts, "second@example.org", Role::Admin).await;
    accounts.begin_delete(last).await.unwrap();
    assert!(matches!(accounts.begin_delete("second@example.org").await, Err(AuthError::LastAdmin)));
    // A number is given once, also when the account with the highest is gone.
    let newest = create(&accounts, "newest@example.org", Role::User).await;
    let gone = accounts.begin_delete("newest@example.org").await.unwrap();
    assert_eq!(gone, newest);
    assert!(accounts.records.write(move |change| change.forget_user(gone)).await.unwrap());
    assert!(create(&accounts, "newest@example.org", Role::User).await > newest);
}

#[tokio::test]
async fn the_last_use_of_a_token_is_shown_at_once_and_outlives_a_restart() {
    let Setup { directory, accounts } = setup(&options()).await;
    let device = accounts.ensure_admin(&options()).await.unwrap().unwrap().token;
    let used = |accounts: &Accounts| accounts.tokens(UserId(1)).unwrap()[0].last_used_ms;
    assert_eq!(used(&accounts), None);
    accounts.authenticate(&device).unwrap();
    let at_ms = used(&accounts).unwrap();
    accounts.write_last_used().await.unwrap();
    assert_eq!(used(&accounts), Some(at_ms));
    drop(accounts);
    assert_eq!(used(&open(&directory, &options()).await), Some(at_ms));
}

#[tokio::test]
async fn device_tokens_have_a_bound_and_names() {
    let accounts = setup(&options()).await.accounts;
    accounts.ensure_admin(&options()).await.unwrap().unwrap();
    let user = create(&accounts, "u@example.org", Role::User).await;
    let new = |name: &str| NewDeviceToken { name: name.into(), scopes: Scopes::ALL, expires_ms: None };
    assert!(matches!(accounts.create_device_token(user, new("")).await, Err(AuthError::BadTokenName)));
    let expired = NewDeviceToken { expires_ms: Some(now_ms()), ..new("a") };
    assert!(matches!(accounts.create_device_token(user, expired).await, Err(AuthError::BadToken(_))));
    let useless = NewDeviceToken { scopes: Scopes { read: false, write: false }, ..new("a") };
    assert!(matches!(accounts.create_device_token(user, useless).await, Err(AuthError::BadToken(_))));
    let records: Vec<TokenRecord> =
        (0..TOKENS_PER_ACCOUNT_MAX).map(|number| new(&number.to_string()).record(user, 0, now_ms())).collect();
    let kept = records[0].id;
    accounts.records.write(move |change| records.iter().try_for_each(|token| change.put_token(token))).await.unwrap();
    assert!(matches!(accounts.create_device_token(user, new("more")).await, Err(AuthError::TooManyTokens)));
    accounts.login("u@example.org", "long enough", HERE).await.unwrap();
    assert_eq!(accounts.tokens(user).unwrap().len(), TOKENS_PER_ACCOUNT_MAX + 1);
    accounts.revoke_token(kept).await.unwrap();
    accounts.create_device_token(user, new("more")).await.unwrap();
}
