use super::support::{assert_gradients, leaf, upload};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::{self, embed_tokens::reference};

#[test]
fn embed_tokens() {
    for gpu in each_family() {
        for (batch, prefix, patches, width) in [
            (1, 0, 1, 1),
            (3, 1, 6, 5),
            (2, 1, 64, 64),
            (65, 5, 2, 12),
            (2, 0, 197, 20),
            (1, 1, 1756, 7),
            (70, 2, 3, 6),
        ] {
            let tokens = prefix + patches;
            let (x, cls) = (values(1, batch * patches * width), values(2, prefix * width));
            let (pos, dy) = (values(3, tokens * width), values(4, batch * tokens * width));
            let tx = leaf(&gpu, &[batch, patches, width], &x);
            let tcls = (prefix > 0).then(|| leaf(&gpu, &[1, prefix, width], &cls));
            let tpos = leaf(&gpu, &[1, tokens, width], &pos);
            let y = ops::embed_tokens(&tx, tcls.as_ref(), &tpos).unwrap();
            assert_eq!(y.dims(), [batch, tokens, width]);
            let what = format!("embed {prefix} + {patches} tokens, B {batch}, C {width}");
            assert_close(&what, &y.to_vec().unwrap(), &reference::forward(&x, &cls, &pos, batch), 0.0);
            let (dx, dcls, dpos) = reference::backward(&dy, prefix * width, tokens * width);
            let mut expected = vec![(&tx, dx.as_slice()), (&tpos, dpos.as_slice())];
            expected.extend(tcls.iter().map(|t| (t, dcls.as_slice())));
            assert_gradients(&what, &y, &dy, &expected, 2e-6);
        }
    }
}

/// Nothing is computed for parents outside the graph, such as frozen parameters.
#[test]
fn embed_tokens_with_frozen_patches() {
    for gpu in each_family() {
        let patches = upload(&gpu, &[2, 3, 4], &values(1, 24));
        let (cls, pos) = (leaf(&gpu, &[1, 1, 4], &values(2, 4)), upload(&gpu, &[1, 4, 4], &values(3, 16)));
        let y = ops::embed_tokens(&patches, Some(&cls), &pos).unwrap();
        let dy = values(4, 32);
        let (_, dcls, _) = reference::backward(&dy, 4, 16);
        assert_gradients("embed, frozen", &y, &dy, &[(&cls, &dcls)], 1e-6);
    }
}
