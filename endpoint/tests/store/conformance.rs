//! What every store must do.

/// One test for each store from each rule.
macro_rules! every_store {
    ($($rule:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $rule() { super::$rule::<crate::support::Memory>().await; })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $rule() { super::$rule::<crate::support::Sqlite>().await; })*
        }
        mod postgres {
            $(#[tokio::test] async fn $rule() {
                if crate::support::has_postgres() {
                    super::$rule::<crate::support::Postgres>().await;
                }
            })*
        }
    };
}

mod delivery;
mod endpoints;
mod results;
