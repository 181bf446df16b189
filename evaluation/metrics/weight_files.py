"""Every file of weights that a metric needs, and where it comes from. None is fetched, none is shipped."""

from __future__ import annotations

from .base import WeightFile

I3D = WeightFile("i3d_torchscript.pt", "StyleGAN-V's I3D of Kinetics-400 (universome/stylegan-v, src/metrics)")
C3D = WeightFile("c3d_ucf101.pt", "StyleGAN-V's C3D fine-tuned on UCF-101 (universome/stylegan-v, src/metrics)")
CLIP = WeightFile("clip-vit-base-patch32", "the folder of OpenAI's CLIP ViT-B/32 (Hugging Face, openai)")
DINO = WeightFile("dino-vitb16", "the folder of DINO ViT-B/16 (Hugging Face, facebook)")
VGG = WeightFile("vgg16.pt", "NVIDIA's VGG-16 with LPIPS as TorchScript (NVlabs/stylegan2-ada-pytorch, metrics)")
