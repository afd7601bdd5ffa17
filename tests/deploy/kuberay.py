"""A schema of what the manifests of deploy/ray/kuberay use of KubeRay's API and of Kubernetes'.

Written from the reference of the API ray.io/v1 (KubeRay 1.4 and later) and of Kubernetes 1.28; the
whole definitions are 900 kB. What is not named here is refused, so that a word that is spelled
wrong, or at a wrong level, is found: Kubernetes itself would drop it.
"""

TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$"}


def record(required=(), **properties):
    """Return the schema of an object that has no other fields than these."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def several(items):
    """Return the schema of a list that is not empty."""
    return {"type": "array", "items": items, "minItems": 1}


QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
RESOURCES = record(requests=QUANTITIES, limits=QUANTITIES)
METADATA = record(["name"], name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
CONTAINER = record(
    ["name", "image", "resources"],
    name=TEXT,
    image=TEXT,
    env=several(record(["name", "value"], name=TEXT, value=TEXT)),
    resources=RESOURCES,
    securityContext=record(
        allowPrivilegeEscalation=FLAG,
        readOnlyRootFilesystem=FLAG,
        capabilities=record(drop=several(TEXT), add=several(TEXT)),
    ),
    volumeMounts=several(
        record(["name", "mountPath"], name=TEXT, mountPath=TEXT, readOnly=FLAG, subPath=TEXT)
    ),
)
VOLUME = {
    **record(
        ["name"],
        name=TEXT,
        emptyDir=record(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY),
        persistentVolumeClaim=record(["claimName"], claimName=TEXT, readOnly=FLAG),
        configMap=record(["name"], name=TEXT, optional=FLAG),
    ),
    "minProperties": 2,
    "maxProperties": 2,
}
POD = record(
    ["containers"],
    automountServiceAccountToken=FLAG,
    serviceAccountName=TEXT,
    nodeSelector=TEXTS,
    tolerations=several(record(key=TEXT, operator=TEXT, value=TEXT, effect=TEXT)),
    securityContext=record(
        runAsNonRoot=FLAG,
        runAsUser=COUNT,
        runAsGroup=COUNT,
        fsGroup=COUNT,
        seccompProfile=record(["type"], type={"enum": ["RuntimeDefault", "Localhost"]}),
    ),
    containers=several(CONTAINER),
    volumes=several(VOLUME),
)
TEMPLATE = record(["spec"], metadata=record(labels=TEXTS, annotations=TEXTS), spec=POD)
HEAD = record(
    ["rayStartParams", "template"],
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
WORKERS = record(
    ["groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
CLUSTER = record(
    ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=record(
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        version={"enum": ["v1", "v2"]},
        resources=RESOURCES,
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs=several(WORKERS),
)
JOB = record(
    ["entrypoint", "rayClusterSpec"],
    entrypoint=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    runtimeEnvYAML=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=COUNT,
    suspend=FLAG,
    rayClusterSpec=CLUSTER,
)


def manifest(kind, spec):
    """Return the schema of a whole manifest."""
    own = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}}
    return record(["apiVersion", "kind", "metadata", "spec"], **own, metadata=METADATA, spec=spec)


SCHEMAS = {"RayCluster": manifest("RayCluster", CLUSTER), "RayJob": manifest("RayJob", JOB)}
