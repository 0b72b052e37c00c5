//! Failures of the database one by one, with packets that vanish instead of being refused.

use end_to_end_tests::{Lab, PostgresCluster, binary, eventually};
use reqwest::StatusCode;
use serde_json::json;

use super::site::{Replica, WorkerHost, completed, http, submit, submitted};

const DATABASE: &str = "jobs";

/// Three databases, one replica, and one worker that lives through everything.
struct Setting {
    lab: Lab,
    cluster: PostgresCluster,
    replica: Replica,
    worker: WorkerHost,
}

impl Setting {
    async fn start(lab: Lab) -> Option<Self> {
        let cluster = PostgresCluster::start(&lab).await?;
        let replica = Replica::start(&lab, &cluster.database(DATABASE));
        replica.ready().await;
        let worker = WorkerHost::start(&lab, &replica, "w");
        Some(Self { lab, cluster, replica, worker })
    }

    /// Waits until a submission is refused, with when to come again.
    async fn refuses(&self) {
        let (http, url) = (http(), format!("{}/run", self.replica.base()));
        let request = json!({"input": {"do": "ok"}});
        let refused = eventually("a refusal", || async {
            let reply = http.post(&url).json(&request).send().await.ok()?;
            (reply.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(reply)
        })
        .await;
        assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    }

    async fn works(&mut self, before: &[String]) {
        let base = self.replica.base();
        let after = submitted(&http(), &base, &json!({"do": "ok"})).await;
        for id in before.iter().chain([&after]) {
            completed(&http(), &base, id).await;
        }
        assert!(self.worker.daemon.is_running() && self.replica.daemon.is_running(), "one has ended by itself");
    }

    async fn submit_some(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(submitted(&http(), &self.replica.base(), &json!({"do": "sleep_ms", "ms": 300})).await);
        }
        ids
    }
}

#[test]
fn a_primary_that_is_cut_off_is_replaced_and_the_replica_finds_the_new_one() {
    binary("runpod-endpoint");
    let Some(lab) = Lab::start() else { return };
    lab.host().enter(async move {
        let Some(mut setting) = Setting::start(lab).await else { return };
        let ids = setting.submit_some().await;
        let old = setting.cluster.primary();
        let _cut = setting.lab.isolate(setting.cluster.host(old));
        setting.refuses().await;
        setting.cluster.fail_over().await;
        // The old primary is as silent as before, and so is the other standby, wherever they stand in the URL.
        let [one, other] = setting.cluster.standbys();
        let left = if one == old { other } else { one };
        let _other = setting.lab.part(&[(&setting.replica.host, setting.cluster.host(left))]);
        setting.works(&ids).await;
    });
}

#[test]
fn a_primary_without_its_standbys_takes_nothing_and_the_replica_is_not_ready() {
    binary("runpod-endpoint");
    let Some(lab) = Lab::start() else { return };
    lab.host().enter(async move {
        let Some(mut setting) = Setting::start(lab).await else { return };
        let ids = setting.submit_some().await;
        let primary = setting.cluster.host(setting.cluster.primary());
        let [one, other] = setting.cluster.standbys().map(|node| setting.cluster.host(node));
        let cut = setting.lab.part(&[(primary, one), (primary, other)]);
        setting.refuses().await;
        let (http, ready) = (http(), setting.replica.url("/ready"));
        eventually("the replica to be not ready", || async {
            http.get(&ready).send().await.ok().filter(|reply| reply.status() == StatusCode::SERVICE_UNAVAILABLE)
        })
        .await;
        // It can be read and still takes no writes: that must not count as being back.
        for _ in 0..20 {
            let accepted = submit(&http, &setting.replica.base(), &json!({"do": "ok"})).await;
            assert_eq!(accepted, None, "no standby has it, and it was acknowledged");
        }
        drop(cut);
        setting.works(&ids).await;
    });
}
