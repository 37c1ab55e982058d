"""What is known about ComfyUI's nodes by their types and by the names of their inputs and outputs.

Facts come from the nodes' published definitions (ComfyUI, its partner nodes, and widely used packs). A type that is not
listed is judged by the names of its inputs alone.
"""

import functools
import re

_MAX_NAME = 200  # characters; a longer name is none of these


class Pattern:
    """A pattern of whole names. It remembers its answers, since the names in a graph repeat."""

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self.compiled = re.compile(pattern, flags)
        self._remembered = functools.lru_cache(maxsize=1000)(self.match)

    def match(self, name: str) -> bool:
        """Whether a name fits."""
        return self.compiled.fullmatch(name) is not None

    def fits(self, name: str) -> bool:
        """Whether a name fits; names of more than _MAX_NAME characters never do."""
        return len(name) <= _MAX_NAME and self._remembered(name)


class PartPattern(Pattern):
    """A pattern of parts of names."""

    def match(self, name: str) -> bool:
        """Whether a part of a name fits."""
        return self.compiled.search(name) is not None


# --- names of inputs

# Inputs that hold a prompt: of nodes that encode texts, in the order of the joined prompt; of nodes of plain text.
TEXTS = ("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "bert", "mt5xl", "prompt", "user_prompt")
ANYTHING = ("source", "anything", "any", "input", "value", "*", "")  # of nodes that pass on what they show
STRINGS = (*TEXTS, "string", "String", "positive", "multiline_text", *ANYTHING)
# Inputs that hold the prompt of a node that makes an image out of words.
WORDS = (
    *("prompt", "positive_prompt", "positive", "user_prompt", "prompt_text", "text_prompt", "pos_prompt"),
    *("image_prompt", "edit_prompt", "instruction", "instructions", "edit_instruction", "description"),
)
POSITIVE = Pattern(
    r"(?:(?:base|optional|opt)_)?pos(?:itive)?(?:_?(?:prompt|text|cond|conditioning|[0-9]))?|text_pos(?:itive)?"
)
NEGATIVE = Pattern(r".*(?:negative|uncond|(?:\A|[_\W])neg(?:[_\W]|\Z)|\An_prompt\Z).*|.*conditioning-")
CONDITIONING = Pattern(r"(?!cfg|mask)(?:.*_)?cond(?:itioning)?s?(?:_?(?:to|from|in|[0-9]{1,5}|[a-z]))?")
EMBEDS = Pattern(r"(?:text|prompt|kolors|hyvid|positive)_embeds?")
BUNDLE = Pattern(r"(?:.*_)?pipe(?:_?[0-9]{1,3})?(?:_opt)?|(?:base_)?(?:ctx|context)(?:_?[0-9]{1,3})?|sdxl_tuple")
PART = Pattern(r"(?:text|string|prompt|input|str)(?:_?[0-9]{1,3}|_[a-z])?")  # of nodes that join texts
STYLE = Pattern(r"(?:.*_)?(?:styles?|template|preset|artist)(?:_?[0-9]{1,3}|_name)?")
AFFIX = Pattern(r"pre_text|app_text|prefix|suffix|prepend|append|trigger_words|(?:opt_)?(?:prepend|append)_?\w{0,9}")
# Inputs that are neither images nor latents; any other linked input may be one of these.
_TOOLS = "model|clip|vae|clip_vision|clip_vision_output|control_net|style_model|upscale_model|ipadapter|lora_stack"
_SAMPLING = "noise|guider|sampler|sigmas|mask|masks|text|prompt|seed|noise_seed|steps|cfg|scheduler|denoise|t5"
_NUMBERS = "width|height|batch_size|length|index|switch|boolean|select|value|fps|frame_rate|scale|scale_by|x|y|audio"
NO_PICTURE = Pattern(
    rf"(?:{_TOOLS}|{_SAMPLING}|{_NUMBERS}|filename\w*|string\w*|delimiter|bboxe?s?|model[0-9]{{1,2}})|.*prompt.*|.*_model"
)
NO_PICTURE_TYPES = frozenset(
    [
        *("MODEL", "CLIP", "VAE", "CONDITIONING", "CONTROL_NET", "STYLE_MODEL", "CLIP_VISION", "CLIP_VISION_OUTPUT"),
        *("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "NOISE", "GUIDER", "SAMPLER", "SIGMAS", "MASK", "AUDIO"),
        "UPSCALE_MODEL",
    ]
)
MASK = Pattern(r"(?:noise_|inpaint_)?masks?")
# Inputs of texts that are no prompts, such as names of files and of models.
OTHER_TEXT = Pattern(
    r".*(?:file|path|folder|dir|prefix|suffix|name|url|format|mode|method|type|resolution|select|model|sampler|schedul"
    r"|font|color|colour|delimiter|separator|regex|pattern|system|image|video|upload|expression|sigmas|key"
    r"|aspect|size|quality|device|precision|preset|weight).*"
)

# --- types of nodes

PASSES = Pattern(r".*reroute.*|bypassed|previewany|easy showanything|display any \(rgthree\)|showtext\|pysssss", re.I)
SWITCH = PartPattern(r"switch|if_?\s?else|conditionalbranch|selector|\bselect\b|any \(rgthree\)|toggle\b", re.I)
JOINS = PartPattern(r"combine|concat|merge|join|append|mixer|average|multi", re.I)  # conditionings to one prompt
ADDS_TEXT = PartPattern(r"\A(?:GLIGEN|CLIPTextEncode)")  # to the text of a conditioning
SCHEDULES = PartPattern(r"schedule|travel|keyframe|interpolat", re.I)
STYLERS = PartPattern(r"styler|style\s?(?:select|prompt|loader)|promptstyle", re.I)
DETAILERS = PartPattern(r"sampler|detailer|ultimatesdupscale", re.I)
MASKS = PartPattern(r"inpaint|noise_?mask", re.I)
# Nodes whose words are drawn onto the image, or say what to look for in it.
NOT_MAKING = PartPattern(
    r"overlay|watermark|draw|label|caption|annotat|detect|segment|sam\d?\b|sam[23]|dino|clipseg|florence|tagger|interrogat"
    r"|mask|load|crop|resize|shader|save|preview|compare|metadata|encode|decode",
    re.I,
)
# Nodes without pictures in their outputs.
MAKES_NUMBERS = PartPattern(
    r"\A(?:primitive(?:int|float|boolean|string)|getimagesize|image ?size|math|string|loader\b)", re.I
)
# ComfyUI's partner nodes, which send a prompt to a service.
PARTNERS = Pattern(
    r"(?:Beeble|Bria|ByteDance|Flux2?(?:3|Pro|Max)?(?:Kontext)?(?:Pro|Max|Ultra)?\w*(?:ImageNode|ExpandNode|FillNode|EraseNode|VTONode)"
    r"|FluxPro|Gemini|Grok|HitPaw|Ideogram|Kling|Krea\d|Luma|Magnific|MetaMuse|Minimax|Moonvalley|OpenAI|OpenRouter"
    r"|Pika|Pixverse|Quiver|Recraft|Reve|Runway|Stability|StableImage|Topaz|Veo|Vidu|Wavespeed|Freepik"
    r"|Tencent|Tripo|Meshy|Rodin"
    r"|\w+(?:Api|API|ApiNode)\Z).*"
)
# Partner nodes that keep what the image shows.
KEEPING = PartPattern(r"upscal|enhanc|crisp|remove\w*background|resize|vectori|denois|skin|preci|resolution", re.I)
SAVERS = PartPattern(r"save|videocombine", re.I)
OTHER_SAVERS = PartPattern(
    r"audio|text|video(?!combine)|glb|svg|3d|latent|mesh|model|checkpoint|lora|json|string|mask", re.I
)
UPSCALERS = PartPattern(r"SUPIR", re.I)  # restore an image by words of their own
INSTRUCTION = "<Prompt Start>"  # the words before it instruct the text encoder of Lumina
# Nodes of plain text that may have more inputs than the text.
PLAIN_TEXTS = frozenset(
    [
        *("StringTrim", "ShowText|pysssss", "Power Prompt (rgthree)", "Power Prompt - Simple (rgthree)"),
        *("easy positive", "Prompt (LoraManager)", "Text (LoraManager)", "CR Text", "CR Prompt Text", "ttN text"),
        *("PrimitiveNode", "Text Multiline", "Text Prompt (JPS)", "PreviewAny"),
    ]
)
# Encoders that take their text as it is; others may fill in wildcards when they run.
LITERAL = Pattern(r"CLIPTextEncode\w*|TextEncode\w*|Primitive\w*|String\w*|BNK_CLIPTextEncodeAdvanced|Reroute")

# Nodes whose first output is the positive conditioning and the second the negative one.
_POSITIVE_FIRST = (
    *("ControlNetApplyAdvanced", "ControlNetApplySD3", "ControlNetInpaintingAliMamaApply", "InpaintModelConditioning"),
    *("InstructPixToPixConditioning", "SVD_img2vid_Conditioning", "StableZero123_Conditioning", "SV3D_Conditioning"),
    *("SD_4XUpscale_Conditioning", "Hunyuan3Dv2Conditioning", "HunyuanVideo15ImageToVideo", "Kandinsky5ImageToVideo"),
    *("WanImageToVideo", "WanVaceToVideo", "WanFirstLastFrameToVideo", "WanFunControlToVideo", "WanFunInpaintToVideo"),
    *("WanCameraImageToVideo", "WanTrackToVideo", "WanSoundImageToVideo", "WanHuMoImageToVideo", "WanAnimateToVideo"),
    *("Wan22FunControlToVideo", "WanPhantomSubjectToVideo", "CosmosImageToVideoLatent", "LTXVConditioning"),
    *("LTXVImgToVideo", "LTXVAddGuide", "LTXVCropGuides", "PairConditioningSetProperties", "PairConditioningCombine"),
    *("Apply ControlNet Stack", "ACN_AdvancedControlNetApply", "ACN_AdvancedControlNetApply_v2", "SUPIR_conditioner"),
    *("CR Apply Multi-ControlNet", "CR SDXL Base Prompt Encoder", "CondPassThrough", "ConditioningSetMaskAndCombine"),
    "ReferenceMultiLatent",
)
# The number of the output with the positive conditioning; the negative one follows.
_POSITIVE_AT = {
    1: (
        *("ApplyInstantID", "ApplyInstantIDAdvanced", "BrushNet", "PowerPaint", "Efficient Loader", "ttN pipeOUT"),
        *("KSampler (Efficient)", "KSampler Adv. (Efficient)", "KSampler SDXL (Eff.)", "WanInfiniteTalkToVideo"),
        *("easy controlnetLoader", "easy controlnetLoaderADV", "easy controlnetLoader++", "ttN pipeEncodeConcat"),
        *("ttN conditioning", "ttN KSampler_v2"),
    ),
    2: (
        *("easy pipeOut", "easy pipeEdit", "easy instantIDApply", "easy ipadapterApplyRegional", "ttN pipeEDIT"),
        *("ttN pipeLoader", "ttN pipeLoader_v2", "ttN pipeKSampler", "ttN pipeKSampler_v2", "ttN pipeLoaderSDXL"),
        *("ttN pipeLoaderSDXL_v2", "ttN pipeKSamplerAdvanced", "ttN pipeKSamplerSDXL", "CR Module Input"),
        "Unpack SDXL Tuple",
    ),
    3: ("FromBasicPipe", "FromDetailerPipe", "easy fullkSampler", "ttN pipeKSamplerSDXL_v2"),
    4: (
        *("FromBasicPipe_v2", "FromDetailerPipe_v2", "FromDetailerPipe_SDXL", "Context (rgthree)"),
        *("Context Big (rgthree)", "Context Switch (rgthree)", "Context Switch Big (rgthree)"),
        *("Context Merge (rgthree)", "Context Merge Big (rgthree)"),
    ),
    6: ("Unpack SDXL Tuple",),
}
# (type, number) of the outputs with positive conditionings. Outputs of other types are told apart by their names, which
# only the editor's graph has, or by what they are used for.
POSITIVE_OUTPUTS = frozenset(
    [*((kind, 0) for kind in _POSITIVE_FIRST), *((kind, at) for at, kinds in _POSITIVE_AT.items() for kind in kinds)]
)
KNOWN_OUTPUTS = frozenset(kind for kind, _ in POSITIVE_OUTPUTS)
UNFINISHED = PartPattern(r"ksampler(?!select)|samplercustom", re.I)  # without a prompt, their links are not in the file
REPLACES = frozenset(["easy pipeEditPrompt"])  # bundles of which a node replaces the prompt

# --- widgets in the editor's graph

# Widgets in their order, for files that do not name them; "" and what follows the last are not needed.
_KSAMPLER = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
_DETAILER = ("guide_size", "guide_size_for", "max_size", *_KSAMPLER, "feather", "noise_mask", "force_inpaint")
_FACE = ("bbox_threshold", "bbox_dilation", "bbox_crop_factor", "", "", "", "", "", "", "drop_size", "wildcard")
WIDGETS: dict[str, tuple[str, ...]] = {
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": ("width", "height", "crop_w", "crop_h", "", "", "text_g", "text_l"),
    "CLIPTextEncodeSDXLRefiner": ("ascore", "width", "height", "text"),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl", "empty_padding"),
    "CLIPTextEncodeHiDream": ("clip_l", "clip_g", "t5xxl", "llama"),
    "CLIPTextEncodeHunyuanDiT": ("bert", "mt5xl"),
    "CLIPTextEncodeLumina2": ("system_prompt", "user_prompt"),
    "CLIPTextEncodePixArtAlpha": ("width", "height", "text"),
    "CLIPTextEncodeControlnet": ("text",),
    "BNK_CLIPTextEncodeAdvanced": ("text", "token_normalization", "weight_interpretation"),
    "TextEncodeQwenImageEdit": ("prompt",),
    "TextEncodeQwenImageEditPlus": ("prompt",),
    "WanVideoTextEncode": ("positive_prompt", "negative_prompt"),
    "WanVideoSampler": ("steps", "cfg", "shift", "seed", "force_offload", "scheduler"),
    "GLIGENTextBoxApply": ("text", "width", "height", "x", "y"),
    "BatchPromptSchedule": ("text",),
    "Prompt (LoraManager)": ("text",),
    "SDXLPromptStyler": ("text_positive", "text_negative", "style"),
    "ImpactWildcardEncode": ("wildcard_text", "populated_text", "mode", "", "", "seed"),
    "ImpactWildcardProcessor": ("wildcard_text", "populated_text", "mode", "seed"),
    "StringFunction|pysssss": ("action", "tidy_tags", "text_a", "text_b", "text_c"),
    "ShowText|pysssss": ("text",),
    "Power Prompt (rgthree)": ("prompt",),
    "CR Text": ("text",),
    "CR Prompt Text": ("prompt",),
    "Text Multiline": ("text",),
    "String Literal": ("string",),
    "ttN text": ("text",),
    "easy positive": ("positive",),
    "DPRandomGenerator": ("text", "seed"),
    "PrimitiveNode": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveBoolean": ("value",),
    "StringConcatenate": ("string_a", "string_b", "delimiter"),
    "StringReplace": ("string", "find", "replace"),
    "ComfySwitchNode": ("switch",),
    "ImpactSwitch": ("select", "sel_mode"),
    "CR Conditioning Input Switch": ("Input",),
    "CR Text Input Switch": ("Input", "text1", "text2"),
    "CR Image Input Switch": ("Input",),
    "CR Latent Input Switch": ("Input",),
    "KSampler": _KSAMPLER,
    "KSampler (Efficient)": _KSAMPLER,
    "KSamplerAdvanced": ("add_noise", "noise_seed", *_KSAMPLER[1:5], "start_at_step", "end_at_step"),
    "SamplerCustom": ("add_noise", "noise_seed", "cfg"),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "SDTurboScheduler": ("steps", "denoise"),
    "Flux2Scheduler": ("steps", "width", "height"),
    "RandomNoise": ("noise_seed",),
    "CFGGuider": ("cfg",),
    "FluxGuidance": ("guidance",),
    "ConditioningAverage": ("conditioning_to_strength",),
    "ConditioningSetTimestepRange": ("start", "end"),
    "FaceDetailer": (*_DETAILER, *_FACE),
    "FaceDetailerPipe": _DETAILER,
    "DetailerForEach": (*_DETAILER, "wildcard"),
    "DetailerForEachPipe": (*_DETAILER, "wildcard"),
    "ToDetailerPipe": ("wildcard",),
    "BasicPipeToDetailerPipe": ("wildcard",),
    "UltimateSDUpscale": ("upscale_by", *_KSAMPLER),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "Efficient Loader": ("ckpt_name", "vae_name", "clip_skip", "lora_name", "", "", "positive", "negative"),
    "Eff. Loader SDXL": ("base_ckpt_name", "", "refiner_ckpt_name", "", "", "", "vae_name", "positive", "negative"),
    **dict.fromkeys(("GeminiImageNode", "GeminiImage2Node", "GeminiNanoBanana2", "GeminiNanoBanana2V2"), ("prompt",)),
    **dict.fromkeys(("IdeogramV1", "IdeogramV2", "IdeogramV3", "KlingImageGenerationNode", "BriaGenFill"), ("prompt",)),
    **dict.fromkeys(("RecraftTextToImageNode", "RecraftImageToImageNode", "RecraftImageInpaintingNode"), ("prompt",)),
    **dict.fromkeys(("StabilityStableImageUltraNode", "StabilityStableImageSD_3_5Node"), ("prompt",)),
    "BriaImageEditNode": ("model", "prompt", "negative_prompt"),
    "WanTextToImageApi": ("model", "prompt", "negative_prompt"),
}
