//! What the layers above keep for each device, opaque here: one value of a type.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

type ByType = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;

#[derive(Debug, Default)]
pub(super) struct Attachments(Mutex<ByType>);

impl Attachments {
    /// The value of type `T`, made on first use.
    pub(super) fn get<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let value = values.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default()));
        // What lies under a type's key is of that type.
        value.clone().downcast().unwrap_or_default()
    }

    /// The same values for another handle; what either makes later is its own.
    pub(super) fn share(&self) -> Self {
        Attachments(Mutex::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }
}
