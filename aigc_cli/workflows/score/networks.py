"""Chooses what computes the scores of a saved model."""

from aigc_cli.errors import AigcError, EnvironmentProblem
from aigc_cli.progress import Progress
from aigc_cli.runtime.devices import check_device, find_accelerator
from aigc_cli.runtime.graphs import GraphPaths, find_graphs
from aigc_cli.runtime.network import ENGINES, GraphNetwork, Network
from aigc_cli.runtime.saved import SavedModel


def check_engine(device: str, engine: str) -> None:
    """Raises AigcError where there is no such device or engine, or they do not go together."""
    check_device(device)
    if engine not in ENGINES:
        raise AigcError(f"Expected an engine out of {', '.join(ENGINES)}, found '{engine}'.", "Use --engine auto.")
    if engine == "onnx" and device not in ("auto", "cpu"):
        raise AigcError("Expected --device cpu beside --engine onnx, found another.", "Use --engine auto.")


def load_network(saved: SavedModel, device: str, engine: str, progress: Progress) -> Network:
    """Loads a saved model into ONNX Runtime, or into PyTorch where that is needed.

    PyTorch scores on a GPU and where the model has no graphs. On Apple's GPU it is chosen only where there are no
    graphs: they start in a second, and small models run as fast with them.

    Raises:
        AigcError: see `check_engine`; or the graphs can't be used; or engine `onnx` is asked and there are none.
        EnvironmentProblem: the backbone's weights or PyTorch are not available, or there is no such device.
    """
    check_engine(device, engine)
    graphs = find_graphs(saved)
    if engine == "onnx" and graphs is None:
        raise AigcError(
            f"Expected a model with graphs for --engine onnx, found none in {saved.checkpoint.folder}.",
            f"Add them with `aigc export {saved.checkpoint.folder}`, or use --engine auto.",
        )
    if graphs is not None and _wants_graphs(device, engine):
        return GraphNetwork(saved, graphs)
    return _load_eager(saved, device, graphs, progress)


def _wants_graphs(device: str, engine: str) -> bool:
    if engine == "auto" and device == "auto":
        return find_accelerator() != "cuda"
    return engine != "eager" and device in ("auto", "cpu")


def _load_eager(saved: SavedModel, device: str, graphs: GraphPaths | None, progress: Progress) -> Network:
    try:
        from aigc_cli.model.eager import EagerNetwork
        from aigc_cli.model.trained import load_saved
    except ImportError as error:
        raise EnvironmentProblem(
            f"PyTorch is needed to score with this model on this device, and can't be imported: {error}.",
            "pip install aigc-cli",
        ) from error
    network = EagerNetwork(load_saved(saved, device), progress)
    if graphs is None and network.device == "cpu":
        progress.say(
            "The model has no graphs, so PyTorch scores the images, which takes longer. "
            f"`aigc export {saved.checkpoint.folder}` adds them."
        )
    return network
