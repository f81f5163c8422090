"""Which module defines the class of an error's code, so that whoever reads an error gets the class that was raised.

A program that asks a peer has not imported what that peer is made of. The module of a code is imported when an error
with that code arrives, and not before; codes of a newer peer stay unknown. A test holds this table to the classes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final

CODES: Final[Mapping[str, tuple[str, ...]]] = {
    "engine.errors": (
        "model_content",
        "not_onnx",
        "ort_format",
        "external_data",
        "foreign_operators",
        "unsupported_opset",
        "unservable_type",
        "refused_by_runtime",
        "wrong_signature",
        "bad_vectors",
        "failed_vectors",
        "bad_labels",
        "bad_functions",
        "model_crashed",
        "model_passing",
        "over_memory",
        "over_time",
        "trial_failed",
        "engine_busy",
        "bad_input",
        "model_not_loaded",
        "model_failed",
    ),
    "engine.template_folder": (
        "folder_exists",
        "folder_not_written",
    ),
    "federation.assignments": ("repository_not_supported",),
    "federation.blobs": (
        "storage_full",
        "storage_failed",
        "blob_busy",
        "damaged_blob",
    ),
    "federation.carried_state": ("bad_fingerprint",),
    "federation.commands": (
        "peer_name_taken",
        "not_allowed",
    ),
    "federation.errors": (
        "bad_key_file",
        "bad_bundle",
        "already_endorsed",
        "bad_key_change",
        "needs_more_signatures",
        "refused",
        "no_certificate",
        "wrong_federation",
        "unknown_peer",
        "removed",
        "certificate_expired",
        "wrong_key",
        "wrong_role",
        "wrong_name",
        "token_unknown",
        "token_reused",
        "token_expired",
        "bad_proof",
        "wrong_body",
        "envelope_expired",
        "nonce_reused",
        "nonces_full",
        "bad_certificate",
        "foreign_certificate",
        "untrusted",
        "bad_signature",
        "unknown_key",
        "revoked_key",
        "retired_key",
        "too_few_signatures",
        "wrong_document",
        "wrong_recipient",
        "old_epoch",
        "replay",
        "fork",
        "not_yet_valid",
        "expired",
        "size",
        "hash",
        "mixed_parts",
        "development_refused",
        "wrong_root",
    ),
    "federation.folders": ("bad_folder",),
    "federation.intervals": ("bad_interval",),
    "federation.layout_index": (
        "version_taken",
        "content_needed",
        "repository_full",
    ),
    "federation.manifest_store": ("missing_part",),
    "federation.manifests": ("bad_manifest",),
    "federation.names": ("bad_name",),
    "federation.needs": (
        "bad_needs",
        "needs_unmet",
        "still_needed",
    ),
    "federation.reconciliation": ("not_runnable",),
    "federation.reports": (
        "no_report",
        "bad_report",
    ),
    "federation.retention": ("release_held",),
    "federation.snapshots": ("bad_backup",),
    "federation.state": (
        "wrong_kind",
        "broken_log",
    ),
    "federation.store": (
        "store_failed",
        "store_in_use",
        "bad_store",
    ),
    "peers.answers": ("too_busy",),
    "peers.backup_folders": ("backup_in_use",),
    "peers.backups": ("home_changing",),
    "peers.archives": (
        "bad_archive",
        "archive_truncated",
        "archive_damaged",
    ),
    "peers.cli.console": ("usage",),
    "peers.client": ("partial_answer",),
    "peers.demo.performance": ("demo_not_converged",),
    "peers.demo.stage": (
        "demo_not_started",
        "demo_command_failed",
    ),
    "peers.development_functions": ("not_deployed",),
    "peers.device_mode": ("autonomous",),
    "peers.discovery": ("no_discovery",),
    "peers.edge_actions": (
        "release_missing",
        "release_too_large",
    ),
    "peers.edge_polling": ("bad_poll_answer",),
    "peers.edge_store": (
        "disk_full",
        "disk_failed",
        "store_damaged",
        "state_in_use",
    ),
    "peers.federation_client": (
        "nameserver_unreachable",
        "wrong_ca",
        "bad_answer",
    ),
    "peers.fetching": (
        "fetch_failed",
        "fetch_stalled",
        "fetch_truncated",
        "fetch_wrong_length",
        "fetch_altered",
        "fetch_wrong_answer",
    ),
    "peers.homes": (
        "bad_home",
        "not_joined",
        "home_in_use",
        "home_unwritable",
    ),
    "peers.joining": (
        "already_joined",
        "bad_admission",
    ),
    "peers.links": ("not_running",),
    "peers.local_parts": ("not_a_publisher",),
    "peers.oci_errors": (
        "registry_unreachable",
        "registry_stalled",
        "registry_failed",
        "registry_busy",
        "registry_refused",
        "registry_unauthorized",
        "registry_untrusted",
        "registry_not_found",
        "registry_no_catalogue",
    ),
    "peers.registry_answers": (
        "blob_unknown",
        "repository_unknown",
        "bad_digest",
        "not_deleted",
        "endpoint_unknown",
        "method_not_allowed",
        "not_satisfiable",
    ),
    "peers.registry_uploads": (
        "upload_unknown",
        "upload_out_of_order",
    ),
    "peers.release_ports": ("no_nameserver",),
    "peers.remote_credentials": ("bad_credentials",),
    "peers.remote_settings": ("bad_repository",),
    "peers.repository_functions": ("other_repository",),
    "peers.running": ("stopping",),
    "peers.settings": (
        "bad_setting",
        "port_taken",
    ),
    "peers.uplinks": (
        "uplink_lost",
        "uplink_busy",
    ),
    "query.building": ("not_supported",),
    "query.catalogue": ("name_taken",),
    "query.durations": ("bad_duration",),
    "query.operators": ("bad_arithmetic",),
    "query.values": ("not_a_value",),
}

_MODULES: Final[Mapping[str, str]] = {code: module for module, codes in CODES.items() for code in codes}


def load_error_class(code: str) -> None:
    """Import the module that defines the class of ``code``; nothing for a code that this version does not know."""
    module = _MODULES.get(code)
    if module is not None:
        importlib.import_module(module)
