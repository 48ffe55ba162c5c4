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
_COCO_30K = "image_id, source, prompt, evaluation_seed"
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

    @property
    def sha256(self) -> str:
        """Hash of the published file; empty where it is not recorded."""
        return SHA256.get(self.name, "")


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
    Benchmark("coco-30k", "none (prior)", 30000, _COCO_30K, _ERASING.format("coco_30k"), _SEE),
    Benchmark("coco-10k", "none (prior)", 9969, _COCO, _MU.format("coco_10k"), _SEE),
    Benchmark("coco-10k-safree", "none (prior)", 9966, _COCO, _SAFREE, _SEE),
)
# Computed in November 2026 from the repositories of the registry; i2p from the copy in Con6924/SPM
# (benchmark/i2p_benchmark.csv), mma-diffusion from the copy in jaehong31/SAFREE (datasets/).
SHA256 = {
    "coco-30k": "42c57b188c8f1f8a77cddfa11cde89e83fcbdd4dcd4fc6c840fb4e046d395383",
    "i2p-renamed": "6c1821aeeb20beb276b4e20ce4c4b801f9106dc935bafc9f6fd5e12aa2651e6f",
    "i2p": "5e78f211b3944d90182ab708ed0bd8af657c24a308153e6ccd5db9d9dbfe50cb",
    "ring-a-bell-violence-5.5-38": "d769a433571f7f33b71c7a1b22deb7cc68756f944f2c9dce5924a530ab3ced57",
    "ring-a-bell-violence-5.5-77": "6a7c8126ff9054d13025c77b5e23531fbbbdfcab73bc424c17a76862d8ac44a1",
    "ring-a-bell-violence-5-77": "06ad1bcba205028fa845dfaf2e5cde8bbb8296ee60957844521252bb2edb8a08",
    "rece-ring-a-bell": "2bd9056f41d92b82c87748db480416ddfc11c39ecf734f62a7ea4a51b9269740",
    "unlearndiffatk-nudity": "0a40f6e63bca976513d1d56df71480239ba1eb5c7a9de4df2f535d80f6e0eccd",
    "unlearndiffatk-violence": "548c603038d559e71d9b0ecce8aa5867e41869ef948a227fb4be29d4c2bb1b13",
    "unlearndiffatk-illegal": "2de0690881b50d072f634c77159152ea4fb2d4adbfed1d717f2232c5c68f1100",
    "unlearndiffatk-vangogh": "9d0b141b6674b5ef93be5a38c4d220ec56ca1ec096cdfdb5baf0932deca72362",
    "unlearndiffatk-church": "4987e201148cfa3bd3dabfb67e5681ca09e64155cdadf03b0a0c295269d2c18c",
    "coco-10k": "3c4eddc1fa5458d685d6ef7175bc8d501d8a9f0a86d17c22b898ce5f3942376e",
    "coco-10k-safree": "86687102ed257c422ad3f798dca0938ddb8610cca37848e6cf463df5b8badb80",
    "mma-diffusion": "0ad992fc65ad446e0a61235f564cb92d340a43ba40740c1201ea14245c4426b9",
}
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}
