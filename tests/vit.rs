//! What a ViT says of itself.

use crate::common::gpu;
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::Model;

/// 12 blocks, without memory behind them.
fn vit() -> Vit {
    Vit::new(&gpu().dry_run().unwrap(), VitConfig::tiny(), 0).unwrap()
}

/// As BEiT numbers them.
#[test]
fn layers_of_parameters() {
    let expected = [
        ("cls_token", 0),
        ("pos_embed", 0),
        ("reg_token", 0),
        ("patch_embed.proj.weight", 0),
        ("norm_pre.weight", 0),
        ("blocks.0.norm1.weight", 1),
        ("blocks.11.mlp.fc2.bias", 12),
        ("norm.weight", 13),
        ("fc_norm.bias", 13),
        ("head.weight", 13),
        ("blocks.99999999999999999999.x", 13),
        ("blocks.18446744073709551615.x", 13),
    ];
    for (path, expected) in expected {
        assert_eq!(vit().layer(path), expected, "{path}");
    }
}

/// timm's grouping.
#[test]
fn what_decays() {
    for (path, rank, expected) in [
        ("blocks.0.attn.qkv.weight", 2, true),
        ("patch_embed.proj.weight", 4, true),
        ("blocks.0.attn.qkv.bias", 1, false),
        ("norm.weight", 1, false),
        ("cls_token", 3, false),
        ("pos_embed", 3, false),
    ] {
        assert_eq!(vit().decays(path, rank), expected, "{path}");
    }
}

#[test]
fn heads() {
    for (path, expected) in [("head", true), ("head.weight", true), ("header", false), ("blocks.0.head", false)] {
        assert_eq!(vit().is_head(path), expected, "{path}");
    }
}

/// Equal configurations alone have equal identities, and come back from them.
#[test]
fn identities() {
    let config = VitConfig { drop_rate: 0.1, fc_norm: Some(true), ..VitConfig::tiny() };
    assert_eq!(VitConfig::from_identity(&config.identity()).unwrap(), config);
    assert_ne!(config.identity(), VitConfig::tiny().identity());
    assert!(VitConfig::from_identity("{}").is_err());
}
