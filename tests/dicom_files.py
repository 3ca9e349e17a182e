"""Small DICOM files of one CT series."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING = 0.8, 0.7  # between rows, between columns
SHAPE = 16, 12, 4  # (x, y, z): columns, rows, slices
VOXELS = np.random.default_rng(0).integers(-500, 1500, SHAPE).astype(np.int16)


def turned(degrees=25.0, mirrored=False):
    """Return the directions along a row and along a column, oblique by a turn around y and then around x."""
    a, b = np.deg2rad([degrees, 0.4 * degrees])
    around_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    axes = around_x @ around_y
    return np.stack([axes[:, 0], -axes[:, 1] if mirrored else axes[:, 1]])


def dicom_slice(file, pixels, position=(0, 0, 0), axes=None, **tags):
    """Write one slice of (rows, columns) pixels; a tag of None is left out."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPInstanceUID = generate_uid()
    header.SOPClassUID = CTImageStorage
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.9"
    header.Modality, header.PatientID, header.PatientName, header.StudyID = "CT", "p1", "Doe^Jane", "1"
    header.PatientBirthDate = header.PatientSex = header.AccessionNumber = header.ReferringPhysicianName = ""
    header.StudyDate = header.StudyTime = ""
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.Rows, header.Columns = pixels.shape
    header.PixelSpacing, header.SliceThickness = list(SPACING), 2.5
    header.ImagePositionPatient = [f"{value:.9g}" for value in position]
    directions = np.eye(3)[:2] if axes is None else axes
    header.ImageOrientationPatient = [f"{value:.9f}" for value in directions.ravel()]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8 * pixels.dtype.itemsize
    header.HighBit, header.PixelRepresentation = header.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.PixelData = np.ascontiguousarray(pixels).tobytes()
    header["PixelData"].VR = "OW"
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(file, header, enforce_file_format=True)
    return file


def dicom_series(folder, voxels=VOXELS, axes=None, distance=2.5, origin=(-30, 12.5, 7), names=None, **tags):
    """Write a series of (x, y, z) voxels; `names` gives the file names, slice by slice along the normal."""
    axes = np.eye(3)[:2] if axes is None else axes
    normal = np.cross(*axes)
    names = names or [f"{number:03d}.dcm" for number in range(voxels.shape[2])]
    for number, name in enumerate(names):
        position = np.array(origin) + number * distance * normal
        dicom_slice(folder / name, voxels[:, :, number].T, position, axes, InstanceNumber=number + 1, **tags)
    return folder


def change(file, **tags):
    """Set tags of a file that is there; None removes one."""
    header = pydicom.dcmread(file)
    for name, value in tags.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    header.save_as(file)
    return file
