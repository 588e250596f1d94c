//! Gradients that are told of segment by segment: in which order, with what in them, and added up over replicas.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::common::{assert_close, each_family, gpu, values};
use wgrad::autograd::{GradientSegment, Parameter, Parameters, Reduce, recompute};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::Mode;
use wgrad::ops::{self, CrossEntropy};
use wgrad::{Error, Gpu, Result, Tensor};

/// Elements of a parameter: two do not fit the first segment, of 1 MiB.
const N: usize = 200_000;

/// Five parameters in three segments: one, two, two.
fn model(gpu: &Gpu) -> (Parameters, Vec<Parameter>) {
    let mut parameters = Parameters::new(gpu);
    let list = (0..5).map(|i| parameters.add(format!("p{i}"), &[N], &values(i, N)).unwrap()).collect();
    (parameters, list)
}

/// Σ of the product of all `factors`, one after the other.
fn product(gpu: &Gpu, factors: &[&Parameter]) -> Tensor {
    let one = Tensor::from_slice(gpu, &[N], &vec![1.0f32; N]).unwrap();
    let product = factors.iter().fold(one, |x, p| ops::mul(&x, &p.tensor()).unwrap());
    ops::sum(&product).unwrap()
}

fn one(gpu: &Gpu) -> Tensor {
    Tensor::from_slice(gpu, &[], &[1.0f32]).unwrap()
}

/// Notes what it is told, and how much had been recorded then.
struct Notes {
    gpu: Gpu,
    told: Vec<usize>,
    dispatches: Vec<u64>,
    contents: Vec<Vec<f32>>,
    is_finished: bool,
}

impl Notes {
    fn of(gpu: &Gpu, loss: &Tensor, parameters: &Parameters) -> Notes {
        let mut notes =
            Notes { gpu: gpu.clone(), told: vec![], dispatches: vec![], contents: vec![], is_finished: false };
        loss.backward_reduced(&one(gpu), parameters, &mut notes).unwrap();
        assert!(notes.is_finished);
        notes
    }
}

impl Reduce for Notes {
    fn ready(&mut self, segment: usize, gradients: &GradientSegment) -> Result<()> {
        assert!(!self.is_finished);
        self.told.push(segment);
        self.dispatches.push(self.gpu.stats().dispatches);
        self.contents.push(gradients.tensor().to_vec()?);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.is_finished = true;
        Ok(())
    }
}

/// What the parameters at these places of a segment have for gradients.
fn parts(segment: &[f32]) -> Vec<&[f32]> {
    segment.chunks(N.next_multiple_of(64)).map(|part| &part[..N]).collect()
}

/// The last layers come first, in the midst of the walk; each segment once; one that is used at both ends, last; one that is not
/// reached, at the end.
#[test]
fn segments_come_when_they_are_whole() {
    let gpu = gpu();
    let (parameters, list) = model(&gpu);
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|i| &list[i]);
    let cases: [(&[&Parameter], [usize; 3]); 5] = [
        (&[a, b, c, d, e], [2, 1, 0]),
        (&[e, d, c, b, a], [0, 1, 2]),
        (&[e, a, b, c, d, e], [1, 0, 2]),
        (&[a, e], [2, 0, 1]),
        (&[b], [1, 0, 2]),
    ];
    for (factors, expected) in cases {
        parameters.zero_grad();
        let notes = Notes::of(&gpu, &product(&gpu, factors), &parameters);
        assert_eq!(notes.told, expected);
        if factors.len() >= 5 {
            assert!(notes.dispatches.is_sorted_by(|a, b| a < b), "{:?}", notes.dispatches);
        }
        for (segment, contents) in notes.told.iter().zip(&notes.contents) {
            for (p, part) in list[[0..1, 1..3, 3..5][*segment].clone()].iter().zip(parts(contents)) {
                match p.grad() {
                    Some(gradient) => assert_eq!(gradient.to_vec::<f32>().unwrap(), part, "{}", p.path()),
                    None => assert_eq!(part, vec![0.0; N], "{} was not reached", p.path()),
                }
            }
        }
    }
}

/// Frozen parameters are not waited for, nor are segments of which all are frozen told of.
#[test]
fn segments_of_what_is_trained() {
    let gpu = gpu();
    let (parameters, list) = model(&gpu);
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|i| &list[i]);
    for p in [a, b] {
        p.set_trainable(false);
    }
    let notes = Notes::of(&gpu, &product(&gpu, &[b, d, e, c, a]), &parameters);
    assert_eq!(notes.told, [1, 2]);
    assert_eq!(notes.contents.iter().map(Vec::len).collect::<Vec<_>>(), [N.next_multiple_of(64), 2 * N]);
    // What was trained once does not stay in the way.
    for p in [d, e] {
        p.set_trainable(false);
    }
    assert_eq!(Notes::of(&gpu, &product(&gpu, &[b, d, e, c, a]), &parameters).told, [1]);
    for p in [d, e] {
        p.set_trainable(true);
    }
    // Other collections in the same graph are another's business.
    let (others, more) = model(&gpu);
    let notes = Notes::of(&gpu, &product(&gpu, &[d, &more[0], e, &more[4]]), &others);
    assert_eq!(notes.told, [2, 0, 1]);
}

/// A checkpointed part adds to its parameters when it is run again.
#[test]
fn checkpointed_parts_are_waited_for() {
    let gpu = gpu();
    let (parameters, list) = model(&gpu);
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|i| &list[i]);
    let x = ops::mul(&a.tensor(), &b.tensor()).unwrap();
    let (inner, outer) = ([c.clone(), d.clone()], [e.clone(), c.clone()]);
    let part = |x, factors: [Parameter; 2]| {
        let f = move |x: Tensor| ops::mul(&ops::mul(&x, &factors[0].tensor())?, &factors[1].tensor());
        recompute(x, f).unwrap()
    };
    let y = part(part(x, inner), outer);
    let notes = Notes::of(&gpu, &ops::sum(&y).unwrap(), &parameters);
    // c is in both parts, and in the segment of b, whose rule comes last and adds to a first.
    assert_eq!(notes.told, [2, 0, 1]);
    let plain = model(&gpu);
    product(&gpu, &[0, 1, 2, 3, 4, 2].map(|i| &plain.1[i])).backward().unwrap();
    for (p, plain) in list.iter().zip(&plain.1) {
        let [got, expected] = [p, plain].map(|p| p.grad().unwrap().to_vec::<f32>().unwrap());
        assert_close(p.path(), &got, &expected, 1e-6);
    }
}

/// Of several passes the last one tells of what all have added up to.
#[test]
fn the_last_of_several_passes() {
    let gpu = gpu();
    let (parameters, list) = model(&gpu);
    product(&gpu, &[&list[0], &list[1]]).backward().unwrap();
    product(&gpu, &[&list[0], &list[3]]).backward().unwrap();
    let notes = Notes::of(&gpu, &product(&gpu, &[&list[0], &list[1]]), &parameters);
    let own = |i: usize| list[i].grad().unwrap().to_vec::<f32>().unwrap();
    for (segment, contents) in notes.told.iter().zip(&notes.contents) {
        assert_eq!(parts(contents)[0], own([0, 1, 3][*segment]));
    }
    let expected: Vec<f32> = values(0, N).iter().map(|v| 2.0 * v).collect();
    assert_close("p1", &own(1), &expected, 1e-6);
}

/// What a hook returns ends the pass, and what does not fit is refused.
#[test]
fn hooks_that_fail() {
    struct Fails;
    impl Reduce for Fails {
        fn ready(&mut self, _: usize, gradients: &GradientSegment) -> Result<()> {
            let other = Tensor::from_slice(gradients.tensor().gpu(), &[3], &[0.0f32; 3])?;
            assert!(matches!(gradients.add(&other), Err(Error::Mismatch { .. })));
            gradients.set(&[0.0; 3])
        }

        fn finish(&mut self) -> Result<()> {
            panic!("the pass has failed")
        }
    }
    let gpu = gpu();
    let (parameters, list) = model(&gpu);
    let loss = product(&gpu, &[&list[0]]);
    let error = loss.backward_reduced(&one(&gpu), &parameters, &mut Fails).err();
    assert!(matches!(&error, Some(Error::Argument { name: "values", .. })), "{error:?}");
}

// ---- replicas ----

const BATCH: usize = 4;

fn vit(gpu: &Gpu) -> Vit {
    let config = VitConfig { img_size: (16, 16), patch_size: 4, num_classes: 3, ..VitConfig::custom(32, 3, 2) };
    Vit::new(gpu, config, 5).unwrap()
}

/// The loss of samples `from..to` of one batch.
fn loss(model: &Vit, from: usize, to: usize) -> Tensor {
    const SAMPLE: usize = 3 * 16 * 16;
    let gpu = model.parameters().gpu();
    let pixels = &values(3, BATCH * SAMPLE)[from * SAMPLE..to * SAMPLE];
    let images = Tensor::from_slice(gpu, &[to - from, 3, 16, 16], pixels).unwrap();
    let labels: Vec<u32> = (from..to).map(|i| i as u32 % 3).collect();
    let labels = Tensor::from_slice(gpu, &[labels.len()], &labels).unwrap();
    let logits = model.forward(&images, &[], &Mode::evaluation()).unwrap();
    ops::cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap()
}

fn gradients(model: &Vit) -> Vec<Vec<f32>> {
    model.parameters().iter().map(|p| p.grad().unwrap().to_vec().unwrap()).collect()
}

fn assert_whole(what: &str, model: &Vit, got: &[Vec<f32>]) {
    let whole = vit(model.parameters().gpu());
    loss(&whole, 0, BATCH).backward().unwrap();
    for ((p, got), expected) in whole.parameters().iter().zip(got).zip(gradients(&whole)) {
        assert_close(&format!("{what}: {}", p.path()), got, &expected, 1e-5);
    }
}

/// Shares its segments with one other, by way of the host.
struct Exchange {
    to: Sender<Vec<f32>>,
    from: Receiver<Vec<f32>>,
    /// What waits for the other's.
    open: Vec<(GradientSegment, Vec<f32>)>,
}

impl Reduce for Exchange {
    fn ready(&mut self, _: usize, gradients: &GradientSegment) -> Result<()> {
        let own: Vec<f32> = gradients.tensor().to_vec()?;
        self.to.send(own.clone()).unwrap();
        self.open.push((gradients.clone(), own));
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.open.drain(..).try_for_each(|(gradients, own)| {
            let other = self.from.recv().unwrap();
            gradients.set(&own.iter().zip(other).map(|(a, b)| a + b).collect::<Vec<_>>())
        })
    }
}

/// Two replicas on two devices, each with half of a batch, end with the same gradients, which are the whole batch's.
#[test]
fn replicas_on_two_devices() {
    let gpus = [gpu(), gpu()];
    let ((to_second, from_first), (to_first, from_second)) = (channel(), channel());
    let ends = [(to_second, from_second), (to_first, from_first)];
    let replica = |i: usize, gpu: &Gpu, (to, from): (Sender<Vec<f32>>, Receiver<Vec<f32>>)| {
        let model = vit(gpu);
        let share = Tensor::from_slice(gpu, &[], &[[0.25f32, 0.75][i]]).unwrap();
        let loss = if i == 0 { loss(&model, 0, 1) } else { loss(&model, 1, BATCH) };
        let mut exchange = Exchange { to, from, open: Vec::new() };
        loss.backward_reduced(&share, model.parameters(), &mut exchange).unwrap();
        (gradients(&model), model)
    };
    let [first, second] = std::thread::scope(|scope| {
        let replica = &replica;
        let mut number = 0..;
        let run = |(gpu, ends)| {
            let i = number.next().unwrap();
            scope.spawn(move || replica(i, gpu, ends))
        };
        let threads: Vec<_> = gpus.iter().zip(ends).map(run).collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        results.try_into().unwrap_or_else(|_| panic!("two"))
    });
    assert!(first.0 == second.0, "the same to the last bit");
    assert_whole("two devices", &first.1, &first.0);
}

/// Two replicas on one device, one after the other: the second adds what the first has kept.
#[test]
fn replicas_on_one_device() {
    struct Keep(Vec<(usize, Tensor)>);
    impl Reduce for Keep {
        fn ready(&mut self, segment: usize, gradients: &GradientSegment) -> Result<()> {
            self.0.push((segment, ops::scale(gradients.tensor(), 1.0)?));
            Ok(())
        }

        fn finish(&mut self) -> Result<()> {
            Ok(())
        }
    }
    struct Add(std::vec::IntoIter<(usize, Tensor)>);
    impl Reduce for Add {
        fn ready(&mut self, segment: usize, gradients: &GradientSegment) -> Result<()> {
            let (same, other) = self.0.next().unwrap();
            assert_eq!(segment, same);
            gradients.add(&other)
        }

        fn finish(&mut self) -> Result<()> {
            assert!(self.0.next().is_none());
            Ok(())
        }
    }
    for gpu in each_family() {
        let [first, second] = [vit(&gpu), vit(&gpu)];
        let half = Tensor::from_slice(&gpu, &[], &[0.5f32]).unwrap();
        let mut keep = Keep(Vec::new());
        loss(&first, 0, 2).backward_reduced(&half, first.parameters(), &mut keep).unwrap();
        let mut add = Add(keep.0.into_iter());
        loss(&second, 2, BATCH).backward_reduced(&half, second.parameters(), &mut add).unwrap();
        assert_whole("one device", &second, &gradients(&second));
    }
}
