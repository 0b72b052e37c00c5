//! Which URLs a webhook can be delivered to at all.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use reqwest::Url;
use runpod_address_guard::{Guard, Lookup, PrivateAddress, names_a_host, system_lookup};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long a submission waits for the addresses of a host name. Without an answer the URL is accepted: it may be delivered later.
const LOOKUP_LIMIT: Duration = Duration::from_millis(500);

/// Look-ups at once. Each takes a thread, also after nobody waits for it any more. A name beyond that is accepted unseen.
const MAX_LOOKUPS: usize = 16;

/// Look-ups at once for the URLs of one request, so that some are left for others.
const LOOKUPS_OF_ONE: usize = MAX_LOOKUPS / 2;

/// How long a request with many URLs waits for all of their host names. Those without an answer by then are accepted.
const ALL_LOOKUPS_LIMIT: Duration = Duration::from_secs(2);

/// How long an answer is used again, so that a thousand submissions look a name up once.
const KNOWN_FOR: Duration = Duration::from_secs(30);

/// Names whose answers are remembered before the old ones are forgotten.
const MAX_KNOWN: usize = 1000;

/// Why a webhook can never be delivered. The texts name no URL: it may carry secrets.
#[derive(Debug, thiserror::Error)]
pub enum BadTarget {
    /// Not a URL, or one without a host.
    #[error("it is not a URL; give http:// or https:// and a host")]
    Url,
    /// A URL of another kind.
    #[error("webhooks go to http:// and https:// only")]
    Scheme,
    /// Nobody can listen there.
    #[error("nobody can listen on port 0; give the port of the receiver, or none for 80 and 443")]
    Port,
    /// The address of all hosts, of several, or of none.
    #[error("{0} is not the address of one host; give that of the receiver")]
    NoHost(IpAddr),
    /// A name that no server for names can have.
    #[error(
        "its host name can never be found; names have labels of 1 to 63 characters, 253 in all, and do not end with .invalid"
    )]
    Name,
    /// An address that no client may make this machine call.
    #[error("{0}; the operator can allow its network with --webhook-allow, for example --webhook-allow 127.0.0.0/8")]
    Private(#[from] PrivateAddress),
}

/// Tells a client at its submission that a webhook can never be delivered. What it lets through is checked again by each delivery.
pub struct TargetCheck {
    guard: Guard,
    lookup: Lookup,
    lookups: Arc<Semaphore>,
    /// For each host name, whether one of its addresses is permitted, and until when that is believed.
    known: Mutex<HashMap<String, (Instant, bool)>>,
}

impl Default for TargetCheck {
    fn default() -> Self {
        Self::new(Guard::default())
    }
}

impl std::fmt::Debug for TargetCheck {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TargetCheck").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl TargetCheck {
    /// A check by this guard.
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        Self { guard, lookup: system_lookup(), lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)), known: Mutex::default() }
    }

    /// Refuses a URL that can never be delivered to.
    ///
    /// # Errors
    /// With the reason and the remedy.
    pub async fn check(&self, url: &str) -> Result<(), BadTarget> {
        let url = parse(url)?;
        check(&url, &self.guard)?;
        match url.domain() {
            Some(name) if !self.may_reach(name).await => Err(PrivateAddress.into()),
            _ => Ok(()),
        }
    }

    /// Refuses the first of many URLs that can never be delivered to, with its number. Each host name is looked up once.
    ///
    /// # Errors
    /// With the number of the URL, the reason and the remedy.
    pub async fn check_all<'a>(&self, urls: impl Iterator<Item = (usize, &'a str)>) -> Result<(), (usize, BadTarget)> {
        // Each name with the first URL that has it.
        let mut names = BTreeMap::new();
        let mut bad = None;
        for (number, url) in urls {
            match parse(url).and_then(|url| check(&url, &self.guard).map(|()| url)) {
                Ok(url) => {
                    if let Some(name) = url.domain() {
                        names.entry(name.to_owned()).or_insert(number);
                    }
                }
                Err(error) => {
                    bad = Some((number, error));
                    break;
                }
            }
        }
        let unreachable = Mutex::new(None);
        let asking = stream::iter(names).for_each_concurrent(LOOKUPS_OF_ONE, |(name, number): (String, usize)| {
            let unreachable = &unreachable;
            async move {
                if !self.may_reach(&name).await {
                    let mut first = unreachable.lock();
                    *first = Some(first.map_or(number, |first: usize| first.min(number)));
                }
            }
        });
        // What is not known by then is accepted.
        let _ = timeout(ALL_LOOKUPS_LIMIT, asking).await;
        match unreachable.into_inner().map(|number| (number, PrivateAddress.into())).or(bad) {
            Some(first) => Err(first),
            None => Ok(()),
        }
    }

    /// Whether one of the name's addresses is permitted, or none is known at the moment.
    async fn may_reach(&self, name: &str) -> bool {
        let now = Instant::now();
        let known = self.known.lock().get(name).copied();
        if let Some((_, reachable)) = known.filter(|(until, _)| now < *until) {
            return reachable;
        }
        let Ok(place) = Arc::clone(&self.lookups).try_acquire_owned() else { return true };
        let asking = (self.lookup)(name.to_owned());
        let answer = tokio::spawn(async move {
            let _place = place;
            asking.await
        });
        let reachable = match timeout(LOOKUP_LIMIT, answer).await {
            Ok(Ok(Ok(addresses))) if !addresses.is_empty() => {
                addresses.iter().any(|address| self.guard.permits(address.ip()))
            }
            _ => true,
        };
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.retain(|_, (until, _)| now < *until);
        }
        if known.len() < MAX_KNOWN {
            known.insert(name.to_owned(), (now + KNOWN_FOR, reachable));
        }
        reachable
    }
}

/// The URL that a client gave.
pub(super) fn parse(url: &str) -> Result<Url, BadTarget> {
    Url::parse(url).map_err(|_| BadTarget::Url)
}

/// Checks all that stands in the URL itself. Addresses in it are never resolved.
pub(super) fn check(url: &Url, guard: &Guard) -> Result<(), BadTarget> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(BadTarget::Scheme);
    }
    if url.port() == Some(0) {
        return Err(BadTarget::Port);
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(BadTarget::Url)?;
    match host.trim_matches(['[', ']']).parse() {
        Ok(ip) if !names_a_host(ip) => return Err(BadTarget::NoHost(ip)),
        Err(_) if !can_be_found(host) => return Err(BadTarget::Name),
        _ => {}
    }
    Ok(guard.check(url)?)
}

/// Whether a host name has the form that DNS prescribes, and is not below the domain that never has any.
fn can_be_found(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |label: &str| (1..=63).contains(&label.len());
    name.len() <= 253 && name.split('.').all(fits) && name.rsplit('.').next() != Some("invalid")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn check_with(
        guard: Guard,
        answer: impl Fn() -> std::io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> TargetCheck {
        let lookup: Lookup = Arc::new(move |_| {
            let answer = answer().map(|ips| ips.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect());
            Box::pin(async move { answer })
        });
        TargetCheck { lookup, ..TargetCheck::new(guard) }
    }

    #[tokio::test]
    async fn a_url_that_can_never_be_delivered_is_refused_with_the_reason() {
        let check = check_with(Guard::default(), || Ok(vec![[10, 0, 0, 1].into(), [127, 0, 0, 1].into()]));
        for (url, part) in [
            ("no url", "http:// or https://"),
            ("http://", "http:// or https://"),
            ("ftp://example.org/hook", "only"),
            ("http://10.0.0.1/hook", "--webhook-allow"),
            ("http://[::1]:9000/hook", "--webhook-allow"),
            ("http://receiver.internal/hook", "--webhook-allow"),
            ("https://receiver.example:0/hook", "port 0"),
        ] {
            let error = check.check(url).await.unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[tokio::test]
    async fn what_no_network_can_deliver_is_refused_whatever_the_operator_allows() {
        let all = || Guard::new(&["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        let check = check_with(all(), || Ok(vec![[10, 0, 0, 1].into()]));
        let long = format!("http://{}.org/", "a".repeat(64));
        let many = format!("http://{}org/", "abc.".repeat(63));
        for (url, part) in [
            ("http://0.0.0.0:9000/hook", "0.0.0.0 is not"),
            ("http://0:9000/hook", "0.0.0.0 is not"),
            ("http://[::]:9000/hook", ":: is not"),
            ("http://239.255.255.250/hook", "239.255.255.250 is not"),
            ("http://255.255.255.255/hook", "255.255.255.255 is not"),
            ("http://[ff02::1]/hook", "ff02::1 is not"),
            ("http://10.0.0.1:0/hook", "port 0"),
            ("http://a..b/hook", "never be found"),
            ("https://receiver.invalid/hook", "never be found"),
            (&long, "never be found"),
            (&many, "never be found"),
        ] {
            let error = check.check(url).await.unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
        for url in ["http://user:word@10.0.0.1/hook#part", "http://10.0.0.1:65535/", "http://receiver.example.:80/"] {
            check.check(url).await.unwrap();
        }
        let nobody = check_with(all(), || Ok(vec![[224, 0, 0, 1].into()]));
        nobody.check("http://receiver.example/").await.unwrap_err();
    }

    #[tokio::test]
    async fn a_name_is_accepted_when_it_may_be_delivered_to() {
        let mixed = check_with(Guard::default(), || Ok(vec![[10, 0, 0, 1].into(), [1, 1, 1, 1].into()]));
        let allowed = check_with(Guard::new(&["10.0.0.0/8".parse().unwrap()]), || Ok(vec![[10, 0, 0, 1].into()]));
        let unknown = check_with(Guard::default(), || Err(std::io::Error::other("no such host today")));
        for check in [mixed, allowed, unknown] {
            check.check("https://receiver.example/hook").await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_nobody_answers_for_hold_up_no_submission() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let lookup: Lookup = Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        });
        let check = TargetCheck { lookup, ..TargetCheck::new(Guard::default()) };
        let begun = Instant::now();
        for number in 0..1000 {
            check.check(&format!("https://{number}.example/hook")).await.unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed), MAX_LOOKUPS);
        assert_eq!(begun.elapsed().as_secs(), (LOOKUP_LIMIT * 16).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn the_names_of_many_urls_are_looked_up_once_each_and_within_a_limit() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let lookup: Lookup = Arc::new(move |name| {
            seen.lock().push(name.clone());
            Box::pin(async move {
                tokio::time::sleep(LOOKUP_LIMIT / 2).await;
                let ip: IpAddr = if name.starts_with("private") { [10, 0, 0, 1] } else { [1, 1, 1, 1] }.into();
                Ok(vec![SocketAddr::new(ip, 0)])
            })
        });
        let check = TargetCheck { lookup, ..TargetCheck::new(Guard::default()) };
        let all = |urls: Vec<String>| {
            let check = &check;
            async move { check.check_all(urls.iter().map(String::as_str).enumerate()).await.map_err(|(number, _)| number) }
        };
        let begun = Instant::now();
        let few = (0..5000).map(|number| format!("https://{}.example/{number}", number % 8)).collect();
        assert_eq!(all(few).await, Ok(()));
        assert_eq!((asked.lock().len(), begun.elapsed()), (8, LOOKUP_LIMIT / 2));

        let begun = Instant::now();
        let many = (0..5000).map(|number| format!("https://m{number}.example/")).collect();
        assert_eq!(all(many).await, Ok(()));
        assert_eq!(begun.elapsed(), ALL_LOOKUPS_LIMIT);

        let urls = |names: &[&str]| names.iter().map(|name| format!("https://{name}/")).collect();
        assert_eq!(all(urls(&["a.example", "private.example", "private.example", "10.0.0.1"])).await, Err(1));
        assert_eq!(all(urls(&["a.example", "10.0.0.1", "private-2.example"])).await, Err(1));
    }

    #[tokio::test]
    async fn many_submissions_look_a_name_up_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let check = check_with(Guard::default(), move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(vec![[1, 1, 1, 1].into()])
        });
        for _ in 0..10 {
            check.check("https://receiver.example/hook").await.unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
