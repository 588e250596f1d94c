//! Making a model in memory of its size.

use crate::autograd::Parameters;
use crate::error::Result;
use crate::gpu::Gpu;

/// Makes a model's parameters, and what `make` makes of them: its layers, through one or more [`super::Init`]s.
///
/// `make` is called twice and is to do the same both times: on a dry run, which tells the parameters' sizes, and then
/// on `gpu`, in memory of just that size. Parameters whose sizes nobody knows beforehand lie in buffers each twice as
/// large as the last, up to 64 MB, and of the last a part stays free.
///
/// # Errors
/// Those of `make`, or if the device has no room.
///
/// ```
/// # let gpu = wgrad::Gpu::new()?.dry_run()?;
/// use wgrad::nn::{self, Init, Linear};
/// let (parameters, [hidden, head]) = nn::build(&gpu, |parameters| {
///     let mut init = Init::new(parameters, 0);
///     Ok([Linear::new(init.at("hidden"), 2, 64, true)?, Linear::new(init.at("head"), 64, 10, true)?])
/// })?;
/// assert_eq!(parameters.len(), 4);
/// # Ok::<(), wgrad::Error>(())
/// ```
pub fn build<T>(gpu: &Gpu, make: impl Fn(&mut Parameters) -> Result<T>) -> Result<(Parameters, T)> {
    let mut sizes = Parameters::new(&gpu.dry_run()?);
    make(&mut sizes)?;
    let mut parameters = Parameters::like(gpu, &sizes);
    let made = make(&mut parameters)?;
    Ok((parameters, made))
}
