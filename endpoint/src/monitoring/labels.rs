//! Bounds the values of labels. Clients may choose endpoint ids freely.

/// Endpoints with a label of their own.
const MAX_ENDPOINTS: usize = 64;

/// Classes of status, the values of the label `status`.
pub const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The label of all others.
pub(super) const OTHER: &str = "other";

/// The endpoints that have a label: the first ones, permanently, so that no counter moves from one series to another.
#[derive(Debug, Default)]
pub(super) struct EndpointLabels(Vec<String>);

impl EndpointLabels {
    /// The position of the endpoint's label in the order of all labels.
    pub(super) fn index(&mut self, endpoint: &str) -> usize {
        if let Some(known) = self.0.iter().position(|label| label == endpoint) {
            return known;
        }
        if self.0.len() < MAX_ENDPOINTS && endpoint != OTHER {
            self.0.push(endpoint.to_owned());
            return self.0.len() - 1;
        }
        MAX_ENDPOINTS
    }

    pub(super) fn name(&self, index: usize) -> String {
        self.0.get(index).map_or(OTHER, String::as_str).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_keep_their_labels_and_the_rest_share_one() {
        let mut labels = EndpointLabels::default();
        let mut label = |endpoint: &str| {
            let index = labels.index(endpoint);
            labels.name(index)
        };
        for number in 0..MAX_ENDPOINTS {
            assert_eq!(label(&format!("ep-{number}")), format!("ep-{number}"));
        }
        assert_eq!((label("one-more"), label("ep-0")), (OTHER.to_owned(), "ep-0".to_owned()));
    }
}
