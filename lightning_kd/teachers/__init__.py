"""Frozen teachers: models, ensembles, cached logits, and checks of them."""

from lightning_kd.teachers.cache import TeacherCache
from lightning_kd.teachers.cached_teacher import CachedTeacher
from lightning_kd.teachers.teacher import ModelRunner, Teacher

__all__ = ["CachedTeacher", "ModelRunner", "Teacher", "TeacherCache"]
