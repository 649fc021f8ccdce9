//! Sealed objects by name: the only place that forms an object's name.
