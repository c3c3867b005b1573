"""Windows of a genome: a slow check by hand of every base, on a made-up genome and on E. coli."""

import gzip
import random
from itertools import pairwise

import pytest

from remask.core.errors import BadData, BadInput, UnknownName
from remask.data.dna import Record, read_fasta
from remask.data.gff import Feature, read_gff
from remask.data.windows import SIDES, _balance, cut_windows

STOPS = {"TAA", "TAG", "TGA"}
PAIRS = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}
LENGTH = 60


def turned(text):
    return "".join(PAIRS[letter] for letter in reversed(text))


def made(seed=0, genes=140, contigs=2):
    """Records and the lines of a GFF file: genes of whole windows, without stop codons inside, and gaps between."""
    chance = random.Random(seed)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in STOPS]
    records, lines = [], ["##gff-version 3", "# a remark", ""]
    for number in range(1, contigs + 1):
        sequence = "".join(chance.choices("ACGT", k=37))
        rows = []
        for gene in range(genes):
            phase = chance.choice([0, 0, 1, 2])
            body = "ACGT"[chance.randrange(4)] * phase
            body += "".join(chance.choices(codons, k=LENGTH // 3 * chance.randint(1, 6)))
            strand = chance.choice("+-")
            first, last = len(sequence) + 1, len(sequence) + len(body)
            sequence += body if strand == "+" else turned(body)
            sequence += "".join(chance.choices("ACGT", k=chance.choice([3, 90, 150, 260])))
            marks = f"ID=cds{gene};Name=a%20b"
            rows.append((f"contig{number}", "made", "gene", first, last, ".", strand, ".", marks))
            rows.append((f"contig{number}", "made", "CDS", first, last, ".", strand, phase, marks))
        records.append(Record(f"contig{number}", sequence))
        rows.append((f"contig{number}", "made", "region", 1, len(sequence), ".", "+", ".", "."))
        lines += ["\t".join(map(str, row)) for row in rows]
    return records, lines


def written(path, lines, *more):
    path.write_text("\n".join([*lines, *more]) + "\n")
    return path


def faults(cut, records, lines, frame):
    """What is wrong with windows, found base by base from the lines of the file, which count from 1."""
    genome = {one.name: one.sequence for one in records}
    rows = [line.split("\t") for line in lines if line.count("\t") == 8]
    found = []
    features = {(row[0], at) for row in rows if row[2] != "region" for at in range(int(row[3]), int(row[4]) + 1)}
    used = {name: [None] * len(sequence) for name, sequence in genome.items()}
    for one in cut.windows:
        places = range(one.start + 1, one.stop + 1)
        text = genome[one.sequence][one.start : one.stop]
        if one.text != (text if one.strand == "+" else turned(text)):
            found.append("text")
        if one.label == "coding":
            homes = [
                row
                for row in rows
                if [row[0], row[2], row[6]] == [one.sequence, "CDS", one.strand]
                and all(int(row[3]) <= at <= int(row[4]) for at in places)
            ]
            if not homes:
                found.append("outside")
            begins = [
                (one.start + 1 - int(row[3]) if one.strand == "+" else int(row[4]) - one.stop) - int(row[7])
                for row in homes
            ]
            if frame == "0" and not any(begin >= 0 and begin % 3 == 0 for begin in begins):
                found.append("frame")
        elif any((one.sequence, at) in features for at in places):
            found.append("touches")
        for at in range(one.start, one.stop):
            if used[one.sequence][at] is not None:
                found.append("overlap")
            used[one.sequence][at] = one.side
    for sides in used.values():  # between windows of different sides at least a window's length is free
        marked = [(at, side) for at, side in enumerate(sides) if side is not None]
        if any(a != b and right - left <= LENGTH for (left, a), (right, b) in pairwise(marked)):
            found.append("neighbours")
    return found


@pytest.mark.parametrize("frame", ["any", "0"])
@pytest.mark.parametrize("seed", range(3))
def test_every_window_is_where_it_should_be(tmp_path, frame, seed):
    records, lines = made(seed)
    features = read_gff(written(tmp_path / "a.gff", lines))
    cut = cut_windows(records, features, length=LENGTH, seed=seed, frame=frame)
    assert faults(cut, records, lines, frame) == []
    for side in SIDES:
        counts = [
            sum((one.side, one.label) == (side, label) for one in cut.windows) for label in ("coding", "noncoding")
        ]
        assert counts[0] == counts[1] > 0
    assert {one.strand for one in cut.windows if one.label == "noncoding"} == {"+", "-"}
    again = cut_windows(records, features, length=LENGTH, seed=seed, frame=frame)
    assert again == cut != cut_windows(records, features, length=LENGTH, seed=seed + 1, frame=frame)


@pytest.mark.parametrize("shift", [-1, 1])
def test_coordinates_read_wrong_by_one_fail_that_check(tmp_path, shift):
    """The planted bug: a start that still counts from 1, a stop that excludes."""
    records, lines = made()
    features = read_gff(written(tmp_path / "a.gff", lines))
    wrong = [one._replace(start=max(one.start + shift, 0), stop=one.stop + shift) for one in features]
    wrong = [one for one in wrong if one.kind != "region"]
    for frame in ("any", "0"):
        found = faults(cut_windows(records, wrong, length=LENGTH, frame=frame), records, lines, frame)
        assert "outside" in found
    assert "frame" in found or found.count("outside") > 20


def test_blocks_are_disjoint_and_cover_all(tmp_path):
    records, lines = made()
    cut = cut_windows(records, read_gff(written(tmp_path / "a.gff", lines)), length=LENGTH)
    for record in records:
        here = [block for block in cut.blocks if block.sequence == record.name]
        assert [here[0].start, here[-1].stop] == [0, len(record.sequence)]
        assert all(left.stop == right.start for left, right in pairwise(here))
    held = [sum(block.side == side for block in cut.blocks) / len(cut.blocks) for side in SIDES]
    assert held[1] == held[2] == pytest.approx(0.1, abs=0.05)
    for one in cut.windows:
        (home,) = [b for b in cut.blocks if b.sequence == one.sequence and b.start <= one.start < b.stop]
        assert home.side == one.side and one.stop <= home.stop


def test_a_window_in_frame_holds_no_stop(tmp_path):
    records, lines = made()
    features = read_gff(written(tmp_path / "a.gff", lines))

    def share(frame):
        windows = cut_windows(records, features, length=LENGTH, frame=frame).windows
        texts = [one.text for one in windows if one.label == "coding"]
        return sum(any(text[i : i + 3] in STOPS for i in range(0, LENGTH, 3)) for text in texts) / len(texts)

    assert share("0") == 0
    assert share("any") > 0.05  # phases 1 and 2 are read one or two bases too early


def test_fewer_are_a_balanced_choice(tmp_path):
    records, lines = made()
    features = read_gff(written(tmp_path / "a.gff", lines))
    whole, few = (cut_windows(records, features, length=LENGTH, count=n) for n in (10_000, 30))
    assert len(few.windows) == 30 and set(few.windows) <= set(whole.windows)
    least = cut_windows(records, features, length=LENGTH, count=6).windows
    assert sorted((one.side, one.label) for one in least) == sorted(
        (side, label) for side in SIDES for label in ("coding", "noncoding")
    )


def test_a_side_with_little_room_is_not_forgotten(tmp_path):
    records, lines = made()
    windows = cut_windows(records, read_gff(written(tmp_path / "a.gff", lines)), length=LENGTH).windows
    for poor in SIDES:
        few = [one for one in windows if one.side != poor]
        for label in ("coding", "noncoding"):
            few.append(next(one for one in windows if (one.side, one.label) == (poor, label)))
        for count in (6, 7, 8, 20, 10_000):
            chosen = _balance(few, ("coding", "noncoding"), count, random.Random(0))
            assert len(chosen) <= count and sum(one.side == poor for one in chosen) == 2
            assert {one.side for one in chosen} == set(SIDES)


def test_what_gives_no_windows(tmp_path):
    """Pseudogenes, letters that stand for several, sequences that nobody annotated, texts that come twice."""
    records, lines = made(contigs=1)
    bare = Record("bare", records[0].sequence)
    pseudo = [line + ";pseudo=true" if k % 4 == 0 else line for k, line in enumerate(lines)]
    cut = cut_windows([*records, bare], read_gff(written(tmp_path / "a.gff", pseudo)), length=LENGTH)
    assert cut.left_out["sequences"] == 1 and {one.sequence for one in cut.windows} == {"contig1"}
    marked = {
        (int(c[3]) - 1, int(c[4])) for c in (line.split("\t") for line in pseudo) if len(c) == 9 and "pseudo" in c[8]
    }
    for one in cut.windows:
        assert one.label == "noncoding" or not any(start <= one.start < stop for start, stop in marked)
    vague = [Record("contig1", records[0].sequence[:9000] + "R" * 900 + records[0].sequence[9900:])]
    cut = cut_windows(vague, read_gff(written(tmp_path / "a.gff", lines)), length=LENGTH)
    assert cut.left_out["ambiguous"] > 0 and all(set(one.text) <= set("ACGT") for one in cut.windows)
    twin = Record("contig2", turned(records[0].sequence))
    mirrored = [
        "\t".join(
            ["contig2", *c[1:3], str(len(twin.sequence) + 1 - int(c[4])), str(len(twin.sequence) + 1 - int(c[3]))]
        )
        + "\t"
        + "\t".join([".", "+-"[c[6] == "+"], *c[7:]])
        for c in (line.split("\t") for line in lines if line.count("\t") == 8)
    ]
    both = [*records, twin]
    cut = cut_windows(both, read_gff(written(tmp_path / "a.gff", lines, *mirrored)), length=LENGTH, frame="0")
    texts = [min(one.text, turned(one.text)) for one in cut.windows]
    assert cut.left_out["repeated"] > 0 and len(texts) == len(set(texts))


def test_a_feature_across_the_origin_of_a_circle(tmp_path):
    records, lines = made(contigs=1)
    size = len(records[0].sequence)
    circle = f"contig1\tmade\tregion\t1\t{size}\t.\t+\t.\tIs_circular=true"
    across = f"contig1\tmade\tCDS\t{size - 99}\t{size + 2000}\t.\t+\t0\tID=x"
    cut = cut_windows(records, read_gff(written(tmp_path / "a.gff", lines, circle, across)), length=LENGTH)
    noncoding = [one for one in cut.windows if one.label == "noncoding"]
    assert all(one.start >= 2000 and one.stop <= size - 100 for one in noncoding)
    with pytest.raises(BadData, match=r"1 features .*beyond the end"):
        cut_windows(records, read_gff(written(tmp_path / "a.gff", lines, across)), length=LENGTH)


def test_exons_are_read_one_by_one():
    """Two rows of one CDS: each has its own phase, and no window spans what lies between."""
    row = Feature("s", "CDS", 0, 0, "-", 0, False, False, 1)
    chance = random.Random(5)
    records = [Record("s", "".join(chance.choices("ACGT", k=12_000)))]
    spans = [(at + shift, at + shift + 40, shift) for at in range(0, 12_000, 200) for shift in (0, 61)]
    features = [row._replace(start=start, stop=stop, phase=shift % 3) for start, stop, shift in spans]
    cut = cut_windows(records, features, length=30, frame="0")
    coding = [one for one in cut.windows if one.label == "coding"]
    assert len(coding) > 20
    for one in coding:
        (home,) = [f for f in features if f.start <= one.start and one.stop <= f.stop]
        assert (home.stop - home.phase - one.stop) % 3 == 0
        assert one.text == turned(records[0].sequence[one.start : one.stop])


# ---- GFF -------------------------------------------------------------------------------------------------------------


def test_gff_as_it_comes(tmp_path):
    text = (
        "##gff-version 3\r\n#!remark\r\n\r\nchr%201\tx\tCDS\t1\t9\t.\t-\t2\tID=a;pseudo=true\r\n"
        "c\tx\tregion\t3\t3\t.\t.\t.\tIs_circular=true;ID=b\r\n###\r\n##FASTA\r\n>c\r\nACGT\r\n"
    )
    (tmp_path / "a.gff.gz").write_bytes(gzip.compress(text.encode()))
    assert read_gff(tmp_path / "a.gff.gz") == [
        Feature("chr 1", "CDS", 0, 9, "-", 2, True, False, 4),
        Feature("c", "region", 2, 3, ".", 0, False, True, 5),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a b c", r"line 2 of .* has 1 columns where 9"),
        ("s\tx\tCDS\t0\t9\t.\t+\t0\t.", r"goes from '0' to '9'"),
        ("s\tx\tCDS\t9\t8\t.\t+\t0\t.", r"goes from '9' to '8'"),
        ("s\tx\tCDS\t1\tend\t.\t+\t0\t.", r"goes from '1' to 'end'"),
        ("s\tx\tCDS\t1\t9\t.\tplus\t0\t.", r"the strand 'plus'"),
        ("s\tx\tCDS\t1\t9\t.\t+\t3\t.", r"the phase '3'"),
        (">s", r"holds no features"),
    ],
)
def test_a_bad_gff_line(tmp_path, line, said):
    with pytest.raises(BadData, match=said):
        read_gff(written(tmp_path / "a.gff", ["##gff-version 3", line]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f._replace(sequence="chr1"), r"describes 'chr1' \(\d+ features\).*does not hold \(it has 'contig1'"),
        (lambda f: f._replace(stop=f.stop + 10**6), r"\d+ features .* beyond .* line 4 \(gene 38\.\..*contig1 has \d+"),
        (lambda f: f._replace(kind="gene"), r"no features of the kind CDS \(it has: gene \d+\)"),
        (lambda f: f._replace(strand="."), r"\d+ CDS features have no strand, the first on line 5"),
    ],
)
def test_annotation_of_something_else(tmp_path, change, said):
    records, lines = made()
    features = [change(one) for one in read_gff(written(tmp_path / "a.gff", lines))]
    with pytest.raises(BadData, match=said):
        cut_windows(records, features, length=LENGTH)


def test_what_cannot_be_cut(tmp_path):
    records, lines = made(genes=30, contigs=1)
    features = read_gff(written(tmp_path / "a.gff", lines))
    with pytest.raises(BadData, match=r"room for 1 of the 3 blocks"):
        cut_windows(records, features, length=5000)
    long, annotated = made()
    with pytest.raises(BadData, match=r"windows of 400 bases find no room .*\(0 coding, 0 noncoding\)"):
        cut_windows(long, read_gff(written(tmp_path / "a.gff", annotated)), length=400)
    with pytest.raises(BadData, match=r"the FASTA file holds 1 letter that is no nucleotide \(E 1\)"):
        cut_windows([Record("contig1", "E" + records[0].sequence)], features, length=LENGTH)
    for wrong in ({"length": 0}, {"length": 60, "count": 5}, {"length": 60, "share": 0.5}):
        with pytest.raises(BadInput, match=r"came as"):
            cut_windows(records, features, **wrong)
    with pytest.raises(UnknownName, match=r"no frame named '1'.*0, any"):
        cut_windows(records, features, length=60, frame="1")
    with pytest.raises(UnknownName, match=r"no label named 'gene'.*cds"):
        cut_windows(records, features, length=60, label="gene")


# ---- real data -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ecoli(real_data):
    folder = real_data / "ecoli_k12"
    return read_fasta(folder / "NC_000913.3.fna.gz"), read_gff(folder / "NC_000913.3.gff.gz")


def test_genes_of_ecoli_begin_and_end_as_genes_do(ecoli):
    (record,), features = ecoli
    whole = [one for one in features if one.kind == "CDS" and not one.pseudo]
    texts = [record.sequence[one.start : one.stop] for one in whole]
    texts = [text if one.strand == "+" else turned(text) for one, text in zip(whole, texts)]
    assert sum(text[:3] == "ATG" for text in texts) / len(texts) > 0.88
    assert sum(text[:3] in {"ATG", "GTG", "TTG"} for text in texts) / len(texts) > 0.99
    assert sum(text[-3:] in STOPS for text in texts) / len(texts) > 0.99


def test_windows_of_ecoli_in_frame_have_nearly_no_stops(ecoli):
    records, features = ecoli
    cut = cut_windows(records, features, length=201, frame="0")

    def stopped(label, shift):
        texts = [one.text for one in cut.windows if one.label == label]
        inner = [[text[i : i + 3] for i in range(shift, 198, 3)] for text in texts]  # a last codon may end the gene
        return sum(not STOPS.isdisjoint(codons) for codons in inner) / len(inner)

    assert len(cut.windows) > 1500
    assert stopped("coding", 0) < 0.01
    assert stopped("coding", 1) > 0.6 and stopped("coding", 2) > 0.6  # the planted bug: one base late
    assert stopped("noncoding", 0) > 0.8
