//! Decides when a repeated failure is worth a log line: when it begins, when it changes its kind, and when it ends.

/// Whether something fails at the moment, and how. `K` is the kind of failure; `()` where there is only one.
#[derive(Clone, Debug)]
pub struct FailureState<K = ()>(Option<K>);

impl<K> Default for FailureState<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq> FailureState<K> {
    /// Records a failure. Returns whether to log it: the last try succeeded, or failed in another way.
    pub fn fail(&mut self, kind: K) -> bool {
        let news = self.0.as_ref() != Some(&kind);
        self.0 = Some(kind);
        news
    }

    /// Records a success. Returns whether to log it: the last try failed.
    pub fn succeed(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Whether the last try failed.
    pub fn is_failing(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_at_the_start_at_each_change_and_at_the_end() {
        let mut state = FailureState::default();
        assert!(!state.succeed(), "nothing has failed yet");
        assert!(state.fail(404));
        assert!(!state.fail(404));
        assert!(state.fail(500));
        assert!(state.is_failing());
        assert!(state.succeed());
        assert!(!state.succeed());
        assert!(state.fail(500), "it begins again");
    }
}
