//! The cache of keys and values of all running sequences: what the network keeps of the tokens that it has seen.
//!
//! Each layer has one tensor with a row for each sequence. The rows in use are always the first ones, so a step reads them in
//! place, however the sequences differ in length. When a sequence ends, the last row moves into its place.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use tch::{Device, Kind, TchError, Tensor};

/// Positions of a row when the cache is created, and the least by which it grows.
const FIRST_LENGTH: i64 = 256;

/// The row of one sequence. The row is free again when its owner drops this.
#[derive(Debug)]
pub(crate) struct Row(Rc<Cell<i64>>);

impl Row {
    pub(crate) fn index(&self) -> i64 {
        self.0.get()
    }
}

/// Keys and values of one layer, each `[rows, length, heads × width]`.
#[derive(Debug)]
struct Layer {
    keys: Tensor,
    values: Tensor,
}

/// The caches of all layers.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<Layer>,
    /// Who owns each row that has been given out.
    owners: Vec<Weak<Cell<i64>>>,
    rows: i64,
    length: i64,
    width: i64,
    device: Device,
}

impl Cache {
    /// A cache for a network with this many layers, whose keys have `width` numbers for each token.
    pub(crate) fn new(layers: i64, width: i64, device: Device) -> Result<Self, TchError> {
        let empty = || Tensor::f_zeros([0, 0, width], (Kind::Float, device));
        let layers = (0..layers).map(|_| Ok(Layer { keys: empty()?, values: empty()? }));
        let layers = layers.collect::<Result<_, TchError>>()?;
        Ok(Self { layers, owners: Vec::new(), rows: 0, length: 0, width, device })
    }

    /// A row for a new sequence. Other rows may move.
    pub(crate) fn add_row(&mut self) -> Result<Row, TchError> {
        self.close_gaps()?;
        if self.owners.is_empty() {
            // Nothing is kept: memory that only a long sequence needed is given back.
            (self.rows, self.length) = (0, 0);
        }
        let index = self.owners.len() as i64;
        self.grow(index + 1, FIRST_LENGTH)?;
        let row = Rc::new(Cell::new(index));
        self.owners.push(Rc::downgrade(&row));
        Ok(Row(row))
    }

    /// Moves rows so that those in use are the first ones.
    pub(crate) fn close_gaps(&mut self) -> Result<(), TchError> {
        let mut index = 0;
        while index < self.owners.len() {
            if self.owners[index].strong_count() > 0 {
                index += 1;
                continue;
            }
            let last = self.owners.len() - 1;
            if let Some(owner) = self.owners[last].upgrade() {
                for tensor in self.layers.iter().flat_map(|layer| [&layer.keys, &layer.values]) {
                    tensor.f_select(0, index as i64)?.f_copy_(&tensor.f_select(0, last as i64)?)?;
                }
                owner.set(index as i64);
            }
            self.owners.swap_remove(index);
        }
        Ok(())
    }

    /// Makes room for positions up to `length` in every row.
    pub(crate) fn reserve(&mut self, length: i64) -> Result<(), TchError> {
        self.grow(self.rows, length)
    }

    fn grow(&mut self, rows: i64, length: i64) -> Result<(), TchError> {
        if rows <= self.rows && length <= self.length {
            return Ok(());
        }
        let doubled = |wanted: i64, present: i64| if wanted > present { wanted.max(2 * present) } else { present };
        let (rows, length) = (doubled(rows, self.rows), doubled(length, self.length));
        let (used, filled) = ((self.owners.len() as i64).min(self.rows), self.length);
        let larger = |old: &Tensor| {
            let new = Tensor::f_zeros([rows, length, self.width], (Kind::Float, self.device))?;
            if used > 0 {
                new.f_narrow(0, 0, used)?.f_narrow(1, 0, filled)?.f_copy_(&old.f_narrow(0, 0, used)?)?;
            }
            Ok::<_, TchError>(new)
        };
        // All or nothing: the memory may not suffice.
        let layers = self.layers.iter();
        let layers = layers.map(|layer| Ok(Layer { keys: larger(&layer.keys)?, values: larger(&layer.values)? }));
        self.layers = layers.collect::<Result<_, TchError>>()?;
        (self.rows, self.length) = (rows, length);
        Ok(())
    }

    /// Number of positions in a row.
    pub(crate) fn length(&self) -> i64 {
        self.length
    }

    /// Writes keys and values, `[tokens, width]`, to these places of a layer (row × length + position), and returns those of
    /// some rows: `[rows, length, width]`.
    pub(crate) fn extend(
        &self,
        layer: usize,
        places: &Tensor,
        (keys, values): (&Tensor, &Tensor),
        (first_row, rows, length): (i64, i64, i64),
    ) -> Result<(Tensor, Tensor), TchError> {
        let write = |tensor: &Tensor, new: &Tensor| {
            let _ = tensor.f_view([-1, self.width])?.f_index_copy_(0, places, new)?;
            tensor.f_narrow(0, first_row, rows)?.f_narrow(1, 0, length)
        };
        let layer = &self.layers[layer];
        Ok((write(&layer.keys, keys)?, write(&layer.values, values)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Cache {
        Cache::new(1, 1, Device::Cpu).unwrap()
    }

    fn write(cache: &Cache, row: &Row, value: f32) {
        let place = Tensor::from_slice(&[row.index() * cache.length()]);
        let value = Tensor::from_slice(&[value]).view([1, 1]);
        let _ = cache.extend(0, &place, (&value, &value), (0, 1, 1)).unwrap();
    }

    fn read(cache: &Cache, row: &Row) -> f64 {
        cache.layers[0].keys.double_value(&[row.index(), 0, 0])
    }

    #[test]
    fn the_last_row_moves_into_the_place_of_one_that_ended() {
        let mut cache = cache();
        let [first, second, third] = [1.0, 2.0, 3.0].map(|value| {
            let row = cache.add_row().unwrap();
            write(&cache, &row, value);
            row
        });
        drop(first);
        cache.close_gaps().unwrap();
        assert_eq!((third.index(), second.index()), (0, 1));
        assert_eq!((read(&cache, &third), read(&cache, &second)), (3.0, 2.0));
        let fourth = cache.add_row().unwrap();
        assert_eq!(fourth.index(), 2);
    }

    #[test]
    fn growing_keeps_what_is_there_and_an_empty_cache_is_small_again() {
        let mut cache = cache();
        let row = cache.add_row().unwrap();
        write(&cache, &row, 7.0);
        cache.reserve(1000).unwrap();
        assert_eq!((cache.length(), read(&cache, &row)), (1000, 7.0));
        drop(row);
        let row = cache.add_row().unwrap();
        assert_eq!((cache.length(), row.index()), (FIRST_LENGTH, 0));
    }
}
