//! What the accounts promise, against a real file.

use std::net::Ipv4Addr;
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
    let (reused, lifetimes) = (accounts.signer.verify(&first.refresh).unwrap().jti, accounts.lifetimes);
    let outcome =
        accounts.records.write(move |change| token::rotate(change, reused, lifetimes, late_ms)).await.unwrap();
    assert!(outcome.is_err());
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
    let other = accounts.create_user("other@example.org", "long enough").await.unwrap().id;
    let (user, lifetimes) = (accounts.authenticate(&device).unwrap().user, accounts.lifetimes);
    let old_ms = now_ms() - 366 * 24 * 60 * 60 * 1000;
    let (access, refresh) = lifetimes.new_pair(user, TokenId::new(), old_ms);
    let (of_other, _) = lifetimes.new_pair(other, TokenId::new(), old_ms);
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
