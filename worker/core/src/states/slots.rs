//! The slots of one handler process. The number of slots in each state is kept, so that no rule has to look at all of them.

use std::collections::BTreeSet;

use super::slot::Slot;
use crate::boundary::{JobId, SlotCounts, Time};

/// The slots of one process.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    /// How many of them may have a job at the same time: all, unless an async handler has asked for fewer since.
    usable: usize,
    /// The slots that wait for a job.
    ready: BTreeSet<u32>,
    /// How many are probing.
    probing: usize,
    /// Slots by state; those that wait for a job are in `ready`.
    others: SlotCounts,
}

impl Slots {
    /// `count` slots in this state.
    pub(crate) fn new(count: u32, state: &Slot) -> Self {
        let mut slots = Self {
            slots: vec![Slot::Absent; count as usize],
            usable: count as usize,
            ready: BTreeSet::new(),
            probing: 0,
            others: SlotCounts { absent: count as usize, ..SlotCounts::default() },
        };
        slots.fill(state);
        slots
    }

    /// Changes all slots.
    pub(crate) fn fill(&mut self, state: &Slot) {
        for (index, _) in (0..).zip(0..self.slots.len()) {
            self.set(index, state.clone());
        }
    }

    /// At most `usable` jobs at the same time from now on. Slots are added in this state when there are too few, and never removed,
    /// because those at the end may run jobs.
    pub(crate) fn set_usable(&mut self, usable: usize, added: &Slot) {
        self.usable = usable;
        for index in self.slots.len()..usable {
            self.slots.push(Slot::Absent);
            self.others.absent += 1;
            self.set(index as u32, added.clone());
        }
    }

    /// How many may have a job at the same time.
    pub(crate) fn usable(&self) -> usize {
        self.usable
    }

    /// Changes a slot. One that does not exist is left alone.
    pub(crate) fn set(&mut self, index: u32, state: Slot) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let old = std::mem::replace(slot, state);
        self.count(index, &old, false);
        let new = self.slots[index as usize].clone();
        self.count(index, &new, true);
    }

    /// Changes the loading slots of a model. A handler without batches has one slot for each of its `models`. Returns whether
    /// there was one.
    pub(crate) fn set_loading(&mut self, model: u32, models: u32, state: &Slot) -> bool {
        self.set_some(model, models, state, |slot| matches!(slot, Slot::Loading { .. }))
    }

    /// As [`set_loading`](Self::set_loading), but changes also the slots of the model that wait for a job.
    pub(crate) fn load_again(&mut self, model: u32, models: u32, state: &Slot) {
        self.set_some(model, models, state, |slot| matches!(slot, Slot::Loading { .. } | Slot::Ready));
    }

    fn set_some(&mut self, model: u32, models: u32, state: &Slot, is_wanted: impl Fn(&Slot) -> bool) -> bool {
        let of_model = (0..).zip(&self.slots).skip(model as usize).step_by(models.max(1) as usize);
        let wanted: Vec<u32> = of_model.filter(|(_, slot)| is_wanted(slot)).map(|(index, _)| index).collect();
        for index in &wanted {
            self.set(*index, state.clone());
        }
        !wanted.is_empty()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Slot> {
        self.slots.get(index as usize)
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    /// The first slot that waits for a job and may have one.
    pub(crate) fn first_ready(&self) -> Option<u32> {
        self.ready.first().copied().filter(|_| self.room() > 0)
    }

    /// How many wait for a job and may have one.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len().min(self.room())
    }

    /// How many more may have a job.
    fn room(&self) -> usize {
        self.usable.saturating_sub(self.busy())
    }

    /// How many run a job.
    pub(crate) fn busy(&self) -> usize {
        self.others.busy + self.others.lingering
    }

    /// Whether one of them probes its device.
    pub(crate) fn is_probing(&self) -> bool {
        self.probing > 0
    }

    /// Whether all have a model.
    pub(crate) fn all_loaded(&self) -> bool {
        self.others.absent + self.others.loading == 0
    }

    /// Whether at least one has a model.
    pub(crate) fn any_loaded(&self) -> bool {
        self.others.absent + self.others.loading < self.slots.len()
    }

    /// When a model that makes no progress counts as stalled.
    pub(crate) fn stalls_at(&self) -> Option<Time> {
        self.earliest(self.others.loading, |slot| match slot {
            Slot::Loading { stalls_at } => Some(*stalls_at),
            _ => None,
        })
    }

    /// When a device that does not answer its probe counts as lost.
    pub(crate) fn probe_until(&self) -> Option<Time> {
        self.earliest(self.probing, |slot| match slot {
            Slot::Probing { until } => Some(*until),
            _ => None,
        })
    }

    /// How many are in each state. A slot that probes its device has no job.
    pub(crate) fn counts(&self) -> SlotCounts {
        SlotCounts { ready: (self.ready.len() + self.probing).min(self.room()), ..self.others }
    }

    fn earliest(&self, count: usize, time: impl Fn(&Slot) -> Option<Time>) -> Option<Time> {
        if count == 0 { None } else { self.slots.iter().filter_map(time).min() }
    }

    fn count(&mut self, index: u32, slot: &Slot, is_added: bool) {
        let total = match slot {
            Slot::Ready if is_added => {
                self.ready.insert(index);
                return;
            }
            Slot::Ready => {
                self.ready.remove(&index);
                return;
            }
            Slot::Absent => &mut self.others.absent,
            Slot::Loading { .. } => &mut self.others.loading,
            Slot::Probing { .. } => &mut self.probing,
            Slot::Busy(_) => &mut self.others.busy,
            Slot::Lingering(_) => &mut self.others.lingering,
        };
        if is_added {
            *total += 1;
        } else {
            *total -= 1;
        }
    }

    /// The job in a slot.
    pub(crate) fn job(&self, index: u32) -> Option<&JobId> {
        self.get(index).and_then(Slot::job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_follow_every_change() {
        let (loading, job) = (Slot::Loading { stalls_at: Time::default() }, JobId::from("a"));
        let mut slots = Slots::new(4, &loading);
        assert_eq!((slots.counts().loading, slots.any_loaded(), slots.stalls_at()), (4, false, Some(Time::default())));
        assert!(slots.set_loading(1, 2, &Slot::Ready));
        assert_eq!((slots.first_ready(), slots.ready(), slots.all_loaded()), (Some(1), 2, false));
        slots.set(1, Slot::Busy(job.clone()));
        slots.set(3, Slot::Probing { until: Time::default() });
        slots.set(9, Slot::Ready);
        assert_eq!((slots.busy(), slots.ready(), slots.counts().ready), (1, 0, 1));
        assert_eq!((slots.job(1), slots.is_probing()), (Some(&job), true));
        slots.set(1, Slot::Ready);
        slots.set_usable(2, &Slot::Ready);
        slots.set(0, Slot::Busy(job.clone()));
        slots.set(2, Slot::Busy(job));
        assert_eq!(
            (slots.usable(), slots.first_ready(), slots.counts().ready),
            (2, None, 0),
            "the other two may not be used"
        );
        slots.set_usable(5, &Slot::Ready);
        assert_eq!((slots.first_ready(), slots.ready(), slots.counts().ready), (Some(1), 2, 3));
        slots.set_usable(4, &Slot::Ready);
        slots.fill(&Slot::Absent);
        assert_eq!((slots.counts(), slots.probe_until()), (SlotCounts { absent: 5, ..SlotCounts::default() }, None));
    }
}
