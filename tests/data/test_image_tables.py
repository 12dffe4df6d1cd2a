"""Tables as public data sets come with: their real lines of column names, with a few rows of the same form."""

# ruff: noqa: E501  lines of tables stay whole

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contralens import InputError, labeled_images

ISIC_2020 = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
ISIC_2024 = (
    "isic_id,target,patient_id,age_approx,sex,anatom_site_general,clin_size_long_diam_mm,image_type,tbp_tile_type,"
    "tbp_lv_A,attribution,copyright_license,lesion_id,iddx_full,iddx_1,mel_mitotic_index,mel_thick_mm,tbp_lv_dnn_lesion_confidence"
)
PAD = (
    "patient_id,lesion_id,smoke,drink,background_father,background_mother,age,pesticide,gender,skin_cancer_history,"
    "cancer_history,has_piped_water,has_sewage_system,fitspatrick,region,diameter_1,diameter_2,diagnostic,itch,grew,hurt,"
    "changed,bleed,elevation,img_id,biopsed"
)
FITZPATRICK = (
    "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url,url_alphanum"
)
DERM7PT = (
    "case_num,diagnosis,seven_point_score,pigment_network,streaks,pigmentation,regression_structures,dots_and_globules,"
    "blue_whitish_veil,vascular_structures,level_of_diagnostic_difficulty,elevation,location,sex,management,clinic,derm,"
    "case_id,notes"
)
NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
MEL2018, MEL2019 = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"

CASES: dict[str, tuple[list[str], list[str], list[str], dict[str, Any]]] = {
    # images, lines of the table, the class of each image that has one, arguments
    "ISIC 2016": (["ISIC_0000000.jpg", "ISIC_0000001.jpg"], ["ISIC_0000000,benign", "ISIC_0000001,malignant"],
                  ["benign", "malignant"], {}),
    "ISIC 2017": (["ISIC_0000000.jpg", "ISIC_0000002.jpg", "ISIC_0000003.jpg"],
                  ["image_id,melanoma,seborrheic_keratosis", "ISIC_0000000,0.0,0.0", "ISIC_0000002,1.0,0.0",
                   "ISIC_0000003,0.0,1.0"], ["nevus", "melanoma", "seborrheic_keratosis"], {}),
    "ISIC 2018": (["ISIC_0024306.jpg", "ISIC_0024307.jpg"],
                  [MEL2018, "ISIC_0024306,0.0,1.0,0.0,0.0,0.0,0.0,0.0", "ISIC_0024307,1.0,0.0,0.0,0.0,0.0,0.0,0.0"],
                  ["NV", "MEL"], {}),
    "ISIC 2019": (["ISIC_0000000.jpg", "ISIC_0000002.jpg"],
                  [MEL2019, "ISIC_0000000,0.0,1.0" + ",0.0" * 7, "ISIC_0000002,0.0,0.0" + ",0.0" * 5 + ",1.0,0.0"],
                  ["NV", "SCC"], {}),
    "ISIC 2020": (["ISIC_2637011.jpg", "ISIC_0015719.jpg"],
                  [ISIC_2020, "ISIC_2637011,IP_7279968,male,45.0,head/neck,unknown,benign,0",
                   "ISIC_0015719,IP_3075186,female,45.0,upper extremity,melanoma,malignant,1"],
                  ["unknown", "melanoma"], {}),
    "ISIC 2020, other column": (["ISIC_2637011.jpg", "ISIC_0015719.jpg"],
                  [ISIC_2020, "ISIC_2637011,IP_7279968,male,45.0,head/neck,unknown,benign,0",
                   "ISIC_0015719,IP_3075186,female,45.0,upper extremity,melanoma,malignant,1"],
                  ["benign", "malignant"], {"class_column": "Benign_Malignant"}),
    "ISIC 2024": (["ISIC_0015670.jpg", "ISIC_0015845.jpg"],
                  [ISIC_2024, "ISIC_0015670,0,IP_1235828,60.0,male,lower extremity,3.04,TBP tile: close-up,3D: white,20.2,"
                   "MSK,CC-BY,,Benign,Benign,,,97.5",
                   "ISIC_0015845,1,IP_8170065,60.0,male,head/neck,1.1,TBP tile: close-up,3D: white,31.7,MSK,CC-BY,IL_1,"
                   "Malignant,Malignant,,,3.1"], ["0", "1"], {}),
    "ISIC 2024, ground truth": (["ISIC_0015670.jpg", "ISIC_0015845.jpg"],
                  ["isic_id,malignant", "ISIC_0015670,0.0", "ISIC_0015845,1.0"], ["0.0", "1.0"], {}),
    "HAM10000": (["ISIC_0027419.jpg", "ISIC_0025030.jpg"],
                 ["lesion_id,image_id,dx,dx_type,age,sex,localization", "HAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp",
                  "HAM_0000119,ISIC_0025030,nv,histo,80.0,male,scalp"], ["bkl", "nv"], {}),
    "PAD-UFES-20": (["PAT_1516_1765_530.png", "PAT_46_881_939.png"],
                    [PAD, "PAT_1516,1765" + "," * 15 + ",NEV,FALSE,FALSE,FALSE,FALSE,FALSE,FALSE,PAT_1516_1765_530.png,FALSE",
                     "PAT_46,881,FALSE,FALSE,POMERANIA,POMERANIA,55,FALSE,FEMALE,TRUE,TRUE,TRUE,TRUE,3.0,NECK,6.0,5.0,BCC,"
                     "TRUE,TRUE,FALSE,TRUE,TRUE,TRUE,PAT_46_881_939.png,TRUE"], ["NEV", "BCC"], {}),
    "DDI": (["000001.png", "000002.png"],
            [",DDI_ID,DDI_file,skin_tone,malignant,disease", "0,1,000001.png,56,True,melanoma-in-situ",
             "1,2,000002.png,56,False,nevus"], ["True", "False"], {}),
    "Fitzpatrick17k": (["5e82a45bc5d78bd24ae9202d194423f8.jpg", "fa2911a9b13b6f8af79cb700937cc14f.jpg"],
                       [FITZPATRICK, "5e82a45bc5d78bd24ae9202d194423f8,3,3,drug induced pigmentary changes,inflammatory,"
                        "non-neoplastic,,https://a.example/1,a.jpg",
                        "fa2911a9b13b6f8af79cb700937cc14f,1,1,melanoma,malignant melanoma,malignant,,https://a.example/2,b.jpg"],
                       ["non-neoplastic", "malignant"], {}),
    "Fitzpatrick17k, other column": (["5e82a45bc5d78bd24ae9202d194423f8.jpg"],
                       [FITZPATRICK, "5e82a45bc5d78bd24ae9202d194423f8,3,3,drug induced pigmentary changes,inflammatory,"
                        "non-neoplastic,,https://a.example/1,a.jpg"], ["drug induced pigmentary changes"],
                       {"class_column": "label"}),
    "derm7pt": (["images/NEL/Nel026.jpg", "images/FAL/Fal025.jpg"],
                [DERM7PT, "1,basal cell carcinoma,0" + "," + ",".join(["absent"] * 7) + ",medium,nodular,abdomen,female,excision,"
                 "NEL/NEL027.JPG,NEL/Nel026.jpg,,", "2,clark nevus,1," + ",".join(["absent"] * 7) + ",low,palpable,back,male,no "
                 "further examination,FAL/FAL026.JPG,FAL/Fal025.jpg,,"], ["basal cell carcinoma", "clark nevus"], {}),
    "NIH ChestX-ray14": (["images_001/00000001_000.png", "images_001/00000001_001.png", "images_002/00000002_000.png"],
                         [NIH, "00000001_000.png,Cardiomegaly,0,1,58,M,PA,2682,2749,0.143,0.143,",
                          "00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,",
                          "00000002_000.png,No Finding,0,2,81,M,PA,2500,2048,0.171,0.171,"],
                         ["Cardiomegaly", "", "No Finding"], {}),
    "NIH ChestX-ray14, chosen classes": (["00000001_000.png", "00000001_001.png", "00000002_000.png"],
                         [NIH, "00000001_000.png,Cardiomegaly,0,1,58,M,PA,2682,2749,0.143,0.143,",
                          "00000001_001.png,Hernia|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,",
                          "00000002_000.png,No Finding|Hernia,0,2,81,M,PA,2500,2048,0.171,0.171,"],
                         ["Cardiomegaly", "Emphysema", ""], {"classes": ["Cardiomegaly", "Emphysema"]}),
    "CheXpert": (["train/patient00001/study1/view1_frontal.jpg", "train/patient00002/study1/view1_frontal.jpg",
                  "train/patient00003/study1/view1_frontal.jpg"],
                 [CHEXPERT, "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
                  "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Female,87,Frontal,AP,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
                  "CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Male,41,Frontal,AP,,,1.0,,,1.0,,,,0.0,,,,"],
                 ["", "-1.0", "1.0"], {"class_column": "Cardiomegaly"}),
}  # fmt: skip


def pictures(folder: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i * 9, 40, 90)).save(folder / name)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_tables_of_public_data_sets(tmp_path: Path, case: str) -> None:
    names, lines, wanted, options = CASES[case]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    found = labeled_images(pictures(tmp_path / "images", names), tmp_path / "table.csv", **options)
    told = dict(zip(found.ids, (found.classes[t] for t in found.targets), strict=True))
    assert told == {name: word for name, word in zip(names, wanted, strict=True) if word}


def test_what_was_chosen_is_said(tmp_path: Path) -> None:
    def notes(case: str) -> tuple[str, ...]:
        names, lines, _, options = CASES[case]
        (tmp_path / case).mkdir()
        (tmp_path / case / "t.csv").write_text("\n".join(lines))
        return labeled_images(pictures(tmp_path / case / "images", names), tmp_path / case / "t.csv", **options).notes

    assert notes("ISIC 2020") == (
        "t.csv: diagnosis holds the classes; so might target: choose with class_column (--class-column)",
    )
    assert notes("derm7pt") == (
        "t.csv: images are named by the column 'derm'", "t.csv is read as derm7pt: classes from diagnosis",
    )  # fmt: skip
    assert "1 image with several classes in t.csv left out; `classes` chooses those that count" in notes(
        "NIH ChestX-ray14"
    )
    assert notes("HAM10000") == ()


def test_what_a_table_does_not_say_is_refused_with_the_way_out(tmp_path: Path) -> None:
    names, lines, _, _ = CASES["CheXpert"]
    (tmp_path / "chexpert.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"several findings an image.*--class-column.*e\.g\. Cardiomegaly"):
        labeled_images(pictures(tmp_path / "x", names), tmp_path / "chexpert.csv")
    names, lines, _, _ = CASES["derm7pt"]
    both = pictures(tmp_path / "derm7pt", [*names, "images/NEL/NEL027.JPG", "images/FAL/FAL026.JPG"])
    (tmp_path / "meta.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"columns clinic, derm all name images; choose one with image_column="):
        labeled_images(both, tmp_path / "meta.csv")
    clinic = labeled_images(both, tmp_path / "meta.csv", image_column="clinic")
    assert list(clinic.ids) == ["images/FAL/FAL026.JPG", "images/NEL/NEL027.JPG"]
    (tmp_path / "two.csv").write_text("image,malignant,disease\na,1,x\n")
    with pytest.raises(InputError, match=r"each of malignant, disease may hold the classes.*--class-column"):
        labeled_images(pictures(tmp_path / "a", ["a.png"]), tmp_path / "two.csv")
    with pytest.raises(InputError, match=r"has no column 'diseaze'; did you mean disease"):
        labeled_images(tmp_path / "a", tmp_path / "two.csv", class_column="diseaze")
    with pytest.raises(InputError, match=r"has no column 'imag'; did you mean image"):
        labeled_images(tmp_path / "a", tmp_path / "two.csv", image_column="imag", class_column="disease")
    (tmp_path / "coco.json").write_text("{}")
    with pytest.raises(InputError, match="JSON is no table; write a CSV file with the columns image and class"):
        labeled_images(tmp_path / "a", tmp_path / "coco.json")


def test_semicolons_tabs_parquet_and_an_index_without_a_name(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["a/1.png", "a/2.png"])
    rows = [("1.png", "cat"), ("2.png", "dog")]
    (tmp_path / "semicolons.csv").write_text("photo;class\n" + "".join(f"{p};{c}\n" for p, c in rows))
    (tmp_path / "tabs.txt").write_text("photo\tclass\n" + "".join(f"{p}\t{c}\n" for p, c in rows))
    (tmp_path / "pandas.csv").write_text(
        ",photo,class,\n" + "".join(f"{i},{p},{c},\n" for i, (p, c) in enumerate(rows))
    )
    pq.write_table(
        pa.table({"photo": ["1.png", "2.png"], "class": ["cat", "dog"], "x": [b"0", b"1"]}), tmp_path / "p.parquet"
    )
    for name in ("semicolons.csv", "tabs.txt", "pandas.csv", "p.parquet"):
        found = labeled_images(tmp_path / "images", tmp_path / name)
        assert [found.classes[t] for t in found.targets] == ["cat", "dog"], name


def test_columns_of_ones_and_long_texts(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["1.png", "2.png"])
    (tmp_path / "ones.csv").write_text("image,benign,malignant\n1,1,0\n2,0,1\n")
    found = labeled_images(tmp_path / "images", tmp_path / "ones.csv")
    assert [found.classes[t] for t in found.targets] == ["benign", "malignant"]
    (tmp_path / "marks.csv").write_text("image,ruler,hair,diagnostic\n1,0,0,NEV\n2,1,1,BCC\n")
    found = labeled_images(tmp_path / "images", tmp_path / "marks.csv")
    assert [found.classes[t] for t in found.targets] == ["NEV", "BCC"]
    (tmp_path / "images/own.csv").write_text(f"story,photo,class\n{'x' * 5000},1.png,a\n{'y' * 5000},2.png,b\n")
    found = labeled_images(tmp_path / "images/own.csv")
    assert list(found.ids) == ["1.png", "2.png"]


def test_paths_may_have_more_or_fewer_folders(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "images", ["x/p1/view.png", "x/p2/view.png", "y/p1/view.png"])
    (tmp_path / "t.csv").write_text("image,class\n/data/set/x/p1/view.png,a\np2/view,b\nset\\y\\p1\\view.png,c\n")
    found = labeled_images(folder, tmp_path / "t.csv")
    assert [found.classes[t] for t in found.targets] == ["a", "b", "c"]
    (tmp_path / "u.csv").write_text("image,class\np1/view.png,a\n")
    with pytest.raises(InputError, match=r"'p1/view.png' may be x/p1/view.png or y/p1/view.png"):
        labeled_images(folder, tmp_path / "u.csv")


def test_parts_of_a_data_set_are_no_classes(tmp_path: Path) -> None:
    names = [
        "Train/benign/1.png",
        "Train/malignant/1.png",
        "valid/benign/2.png",
        "test_set/malignant/3.png",
        "test_set/4.png",
    ]
    found = labeled_images(pictures(tmp_path / "kaggle", names))
    assert found.classes == ("benign", "malignant")
    assert found.targets.tolist() == [0, 1, 1, 0]
    assert found.notes == (f"1 image of {tmp_path / 'kaggle'} without a class excluded",)
    one = labeled_images(pictures(tmp_path / "one", ["set/train/benign/1.png", "set/test/benign/2.png"]))
    assert one.classes == ("benign",)
    with pytest.raises(InputError, match="has no classes"):
        labeled_images(pictures(tmp_path / "flat", ["train/1.png", "test/2.png"]))
    assert labeled_images(pictures(tmp_path / "own", ["test/1.png", "control/2.png"])).classes == ("control", "test")
    torchvision = pytest.importorskip("torchvision")
    two = torchvision.datasets.ImageFolder(str(pictures(tmp_path / "two", ["valid/a/1.png", "test_set/a/2.png"])))
    with pytest.raises(InputError, match=r"test_set, valid are parts of a data set, no classes"):
        labeled_images(two)


def test_subgroups_of_a_table_with_other_columns(tmp_path: Path) -> None:
    names, lines, _, _ = CASES["PAD-UFES-20"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    folder = pictures(tmp_path / "images", [f"{kind}/{name}" for kind, name in zip("ab", names, strict=True)])
    found = labeled_images(folder).with_groups(tmp_path / "t.csv")
    assert found.groups["diagnostic"].tolist() == ["NEV", "BCC"]
    assert np.unique(found.targets).tolist() == [0, 1]
