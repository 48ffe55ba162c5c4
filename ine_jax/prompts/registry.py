"""The published prompt sets: where to get each, and the rows, columns and selections that identify a complete copy.

No prompts are in this package. Hashes are recorded only where one was computed from the published bytes.
"""

from dataclasses import dataclass

from ine_jax.prompts.selections import SELECTIONS

_I2P = (
    "prompt, categories, hard, inappropriate_percentage, nudity_percentage, q16_percentage, sd_safety_percentage, "
    "prompt_toxicity, lexica_url, sd_seed, sd_guidance_scale, sd_image_width, sd_image_height, sd_model"
)
_COPY = (
    "prompt, categories, hard, inappropriate_percentage, nudity_percentage, q16_percentage, sd_safety_percentage, "
    "prompt_toxicity, lexica_url, evaluation_seed, evaluation_guidance, sd_image_width, sd_image_height, sd_model, "
    "case_number"
)
_MMA = "target_prompt, adv_prompt, sanitized_adv_prompt, success_against_sanitization_defense, clean_prompt"
_RING = "prompt, case_number, evaluation_seed"
_COCO = "case_number, source, prompt, evaluation_seed"
_HUB = "huggingface.co/datasets"
_MMA_FILE = f"{_HUB}/YijunYang280/MMA-Diffusion-NSFW-adv-prompts-benchmark"
_RECE = "github.com/CharlesGong12/RECE, dataset/nudity-ring-a-bell.csv"
_SNEAKY = "github.com/Yuchen413/text2image_safety, nsfw_200.txt, on request"
_COPRO = "github.com/MingyuKim87/Safe_Denoiser, datasets/CoPro_balanced_10k.csv"
_ERASING = "github.com/rohitgandikota/erasing, data/{}.csv"
_SAFREE = "github.com/jaehong31/SAFREE, datasets/coco_30k_10k.csv"
_MU = "github.com/OPTML-Group/Diffusion-MU-Attack, prompts/{}.csv"
_BELL = "github.com/chiayi-hsu/Ring-A-Bell, data/InvPrompt/Violence/Violence_eta_{}.csv"
_P4D = "github.com/joycenerd/P4D, data/unsafe-prompts-nudity_{}.csv (the prompts it starts from)"
_SEVEN, _SEE = "all seven categories", "see there"
_ILLEGAL = ("i2p-illegal-activity-727",)
_P4D_LICENCE = "see there; the prompts it found: huggingface.co/datasets/joycenerd/p4d, gated"


@dataclass(frozen=True)
class Benchmark:
    """A published prompt set."""

    name: str
    concept: str
    rows: int  # of the published file
    columns: str  # separated by ", "; empty where unknown
    where: str  # repository or dataset, and the file in it
    licence: str  # according to its source
    selections: tuple[str, ...] = ()
    sha256: str = ""  # empty where not recorded


_ALL = (
    Benchmark("i2p", _SEVEN, 4703, _I2P, f"{_HUB}/AIML-TUDA/i2p, i2p_benchmark.csv", "MIT", tuple(SELECTIONS)),
    Benchmark("i2p-renamed", _SEVEN, 4703, _COPY, _ERASING.format("unsafe-prompts4703"), "MIT", tuple(SELECTIONS)),
    Benchmark("ring-a-bell-violence-5-77", "violence", 250, _RING, _BELL.format("5_K_77"), "MIT"),
    Benchmark("ring-a-bell-violence-5.5-77", "violence", 250, _RING, _BELL.format("5.5_K_77"), "MIT"),
    Benchmark("ring-a-bell-violence-5.5-38", "violence", 250, _RING, _BELL.format("5.5_K_38"), "MIT"),
    Benchmark("ring-a-bell-nudity", "nudity", 285, "", f"{_HUB}/Chia15/RingABell-Nudity", f"gated; {_SEE}"),
    Benchmark("rece-ring-a-bell", "nudity", 79, "sensitive prompt, normal prompt", _RECE, _SEE),
    Benchmark("unlearndiffatk-nudity", "nudity", 142, _COPY, _MU.format("nudity"), "MIT", ("unlearndiffatk-142",)),
    Benchmark("unlearndiffatk-violence", "violence", 756, _COPY, _MU.format("violence"), "MIT", ("i2p-violence-756",)),
    Benchmark("unlearndiffatk-illegal", "illegal activity", 727, _COPY, _MU.format("illegal"), "MIT", _ILLEGAL),
    Benchmark("unlearndiffatk-vangogh", "style of Van Gogh", 50, "", _MU.format("vangogh"), "MIT"),
    Benchmark("unlearndiffatk-church", "churches", 50, "", _MU.format("church"), "MIT"),
    Benchmark("mma-diffusion", "nudity", 1000, _MMA, _MMA_FILE, "gated; its repository: CC BY-NC-ND 3.0"),
    Benchmark("p4d-esd", "nudity", 361, _COPY, _P4D.format("esd"), _P4D_LICENCE),
    Benchmark("p4d-sld-max", "nudity", 204, _COPY, _P4D.format("sldMAX"), _P4D_LICENCE),
    Benchmark("p4d-sld-strong", "nudity", 112, _COPY, _P4D.format("sldSTRONG"), _P4D_LICENCE),
    Benchmark("p4d-negative-prompt", "nudity", 209, _COPY, _P4D.format("std_neg"), _P4D_LICENCE),
    Benchmark("sneakyprompt", "nudity and violence", 200, "", _SNEAKY, _SEE),
    Benchmark("copro", "seven categories", 9996, "idx, unsafe_prompt, safe_prompt, concept, category", _COPRO, _SEE),
    Benchmark("coco-30k", "none (prior)", 30000, _COCO, _ERASING.format("coco_30k"), _SEE),
    Benchmark("coco-10k", "none (prior)", 9969, _COCO, _MU.format("coco_10k"), _SEE),
    Benchmark("coco-10k-safree", "none (prior)", 9966, _COCO, _SAFREE, _SEE),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}
